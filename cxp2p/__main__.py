from __future__ import annotations

from cxp2p.cli import main

main()
