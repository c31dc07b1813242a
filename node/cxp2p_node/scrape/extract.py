from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.content import main_content, measure
from cxp2p_node.scrape.decode import decode
from cxp2p_node.scrape.fence import fence
from cxp2p_node.scrape.markdown import markdown
from cxp2p_node.scrape.reader import read
from cxp2p_node.scrape.text import plain
from cxp2p_node.scrape.tree import parse


def quick(body, url, form="text", links=False):
    s, _ = decode(body, "", url)
    nodes = parse(fence(s).html)
    measure(nodes)
    root = main_content(nodes)
    b = read(root, Addresses(url), links)
    return plain(b) if form == "text" else markdown(b)
