"""What a node does with a web page. `fetch` gets its bytes, by the rules of `cxp2p.egress`; `extract` makes of them
what it says: Markdown, text or cleaned HTML, and facts about it. No IO but in what fetches and what runs processes.
"""
