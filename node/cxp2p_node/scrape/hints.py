"""What the names that page authors give to their elements say about them: class, id, role."""

from __future__ import annotations

import re
from enum import Flag, auto
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cxp2p_node.scrape.tags import names
from cxp2p_node.scrape.tree import Node

CLASSES_MAX: Final = 24  # of one element; utility frameworks have many, none of which says anything
NAME_CHARACTERS_MAX: Final = 80


class Hint(Flag):
    """What a name says. The first five are about what surrounds the content of a page."""

    NONE = 0
    JUNK = auto()  # whatever it holds
    LINKS = auto()  # if links are much of it
    SMALL = auto()  # if there is little in it
    COMMENTS = auto()
    HIDDEN = auto()
    CONTENT = auto()  # the main content, perhaps with something round it
    BODY = auto()  # the main content and nothing else
    LEAD = auto()  # what stands between the title and the text
    NOTE = auto()  # a remark that belongs to the content


_JUNK: Final = names(
    "addthis addtoany ads adsbox adsbygoogle adsense adslot advert advertisement advertising adverts adwrap backtotop"
    " breadcrumb breadcrumbs catlinks ccpa colophon consent cookie cookies crosssell dfp disqus donotprint editsection"
    " edit-section edit-this-page email-signup gdpr giscus headerlink jp-relatedposts jumplinks jump-link"
    " lang-switcher langswitch language-switcher lightbox linkback mailchimp md-footer md-header md-sidebar"
    " minicart mostread most-read navbar navbox newsletter noexcerpt noprint onetrust outbrain pager pagination"
    " paginator permalink-anchor popover popup prevnext prev-next pagination-nav printfooter readalso"
    " recirc recirculation recommendations recommended related relatedposts related-posts related-articles"
    " rst-footer-buttons sharebar sharebox sharedaddy sharethis share-bar share-buttons share-links share-tools"
    " sharing site-footer site-header siteheader sitefooter site-nav skip-link skiplink skiplinks skip-links skip-nav"
    " skip-to-content social-links social-media social-share sphinxsidebar sponsor sponsored sponsors"
    " subscribe-box taboola toc toctree-wrapper-off tooltip-popup trending upsell utterances vector-menu"
    " vector-page-toolbar wp-block-latest-posts wy-nav-side yarpp zergnet mw-jump-link mw-indicators mw-hidden-catlinks"
    " authorbox author-box author-bio about-author about-the-author author-info more-from more-stories morestories"
    " auth-modal login-form login-modal modal signup-form subscribe-form subscription-form newsletter-signup offcanvas"
    " also-read axeptio bottom-of-article cmp didomi footer iubenda klaro linenodiv lineno linenos lnt more-news"
    " online-list osano other-news post-buttons post-signature postprofile read-also rouge-gutter signature similar"
    " similar-posts stat-block tarteaucitron truste usercentrics user-info"
    " also-like you-may-also-like next-up up-next read-next readnext whats-next infinite-scroll scroll-to-top go-top"
)
_LINKS: Final = names(
    "archive categories category contents explore featured footer links list-of-links menu more nav navigation popular"
    " promo promos related-topics see-also-box sidebar sitemap submenu tag-cloud tagcloud taglist tags topics widget"
    " widget-area tabs toolbar teaser teasers carousel footer-links table-of-contents onthispage on-this-page"
)
_SMALL: Final = names(
    "ad byline caption-credit call-to-action cart copyright credit-line cta dateline disclaimer donate donation"
    " entry-meta entry-footer feedback filter filters follow follow-us legal login masthead meta metadata"
    " article-meta post-meta posted-on postmeta post-info print promo promotion rating ratings read-time reading-time"
    " readingtime register search searchbox searchform share shares sidebar signin signup sign-up social socials"
    " sort sponsored-content subscribe subscription survey timestamp toolbar utility utilities vote votes voting"
    " wishlist author authors avatar published pubdate publish-date post-date entry-date edit-link edit-page"
    " prompt-login banner announcement announcement-bar topbar top-bar widget hint--keyboard badge badges views"
    " view-count counter like likes reactions post-tags tag-links cat-links printonly"
)
_COMMENTS: Final = names(
    "comment comments commentlist comment-list comment-respond respond replies reply-list discussion-comments"
    " fb-comments reader-comments user-comments commentform comment-form"
)
_HIDDEN: Final = names(
    "hidden d-none sr-only srcreader screen-reader-text visually-hidden visuallyhidden screenreader u-hidden is-hidden"
    " sr-text assistive-text offscreen"
)
_BODY: Final = names(
    "article-body article-content articlebody articlecontent article-text articletext body-content bodytext bodycopy"
    " c-article-body caas-body content-article doc-content entry-body entry-content entrytext field-name-body"
    " instapaper-body markdown-body md-typeset mw-parser-output news-content post-body post-content post-text postbody"
    " postcontent posttext s-prose single-content story-body story-content story-text storybody storycontent storytext"
    " td-post-content theme-doc-markdown topic-content devsite-article-body e-content"
)
_CONTENT: Final = names(
    "article-main article-page blog-content blog-post content-body content-main contentbody documentation h-entry"
    " main-content maincontent markdown markdown-section md-content node-content page-body page-content pagecontent"
    " post-entry prose rich-text richtext rst-content single-post text-content topic-body wysiwyg"
)
_LEAD: Final = names(
    "abstract chapo deck dek excerpt ingress intro introduction lead lede price standfirst subheading subhead subline"
    " subtitle summary tagline"
)
_NOTE: Final = names(
    "admonition alert callout caution danger definition epigraph example footnote footnotes important info note notice"
    " pullquote pull-quote sidenote theorem tip warning infobox"
)
_SHOWN_SOMEWHERE: Final = re.compile(r"(?:-|:)(?:block|flex|grid|inline|table)")  # hidden on small screens only
_WORD: Final = re.compile(r"[a-z]+|[0-9]+")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAMES: Final = (
    (_JUNK, Hint.JUNK),
    (_LINKS, Hint.LINKS),
    (_SMALL, Hint.SMALL),
    (_COMMENTS, Hint.COMMENTS),
    (_HIDDEN, Hint.HIDDEN),
    (_CONTENT, Hint.CONTENT),
    (_BODY, Hint.BODY | Hint.CONTENT),
    (_LEAD, Hint.LEAD),
    (_NOTE, Hint.NOTE),
)
_ROLES: Final = {
    **dict.fromkeys(
        ("navigation", "banner", "contentinfo", "search", "dialog", "alertdialog", "menu", "menubar"), Hint.JUNK
    ),
    **dict.fromkeys(("toolbar", "tablist", "complementary", "doc-toc", "tooltip"), Hint.JUNK),
    "main": Hint.CONTENT,
    **dict.fromkeys(("note", "doc-footnote", "doc-endnotes", "doc-tip", "doc-example"), Hint.NOTE),
}


def hint(node: Node) -> Hint:
    """What the names of `node` say."""
    raw = node.raw
    found = Hint.NONE
    if "class=" in raw or "id=" in raw:
        found = _of_names(node.get("class"), node.get("id"))
    if "role=" in raw:
        found |= _ROLES.get(node.get("role"), Hint.NONE)
    if "itemprop=" in raw and "articlebody" in node.get("itemprop").lower():
        found |= Hint.BODY | Hint.CONTENT
    return found


@lru_cache(maxsize=8_192)
def _of_names(classes: str, identity: str) -> Hint:
    found = Hint.NONE
    for name in (*classes.split()[:CLASSES_MAX], identity):
        if name and len(name) <= NAME_CHARACTERS_MAX:
            found |= _of_name(name)
    if Hint.HIDDEN in found and _SHOWN_SOMEWHERE.search(classes):
        found &= ~Hint.HIDDEN
    return found


@lru_cache(maxsize=8_192)
def _of_name(name: str) -> Hint:
    words = _WORD.findall(_HUMP.sub("-", name).lower())
    runs = {
        *words,
        *(f"{one}-{two}" for one, two in pairwise(words)),
        *(f"{one}-{two}-{three}" for one, two, three in zip(words, words[1:], words[2:], strict=False)),
    }
    if "with" in words or "has" in words or "no" in words or "is" in words:  # a layout: page-with-sidebar, has-toc
        return Hint.NONE
    found = Hint.JUNK if any(word.startswith("cookie") for word in words) else Hint.NONE
    for known, said in _NAMES:
        if not known.isdisjoint(runs):
            found |= said
    return found
