"""From the bytes of a web page to what it says: Markdown, text or cleaned HTML, and facts about it. No IO in here."""
