"""Protocol ids, frame tags and limits: one table, nothing else.

Rules. The version of a protocol is in its id and nowhere else. A tag is never reused: a retired one stays here as a
comment. Every limit names its unit and says where the number comes from. `PROTOCOL.md` says the same in prose and
`tests/test_docs.py` compares the two.
"""

from __future__ import annotations

from typing import Final

JOB: Final = "/cxp2p/job/1"
OFFERS: Final = "/cxp2p/offers/1"
OFFER_WATCH: Final = "/cxp2p/offer/1"
CLAIM: Final = "/cxp2p/claim/1"
EPOCH: Final = "/cxp2p/epoch/1"
KAD: Final = "/cxp2p/kad/1.0.0"

# Frame tags, one number space for all protocols.
TAG_ASK: Final = 1
TAG_ACCEPTED: Final = 2
TAG_REFUSAL: Final = 3
TAG_PIECE: Final = 4
TAG_CANCEL: Final = 5
TAG_RECEIPT: Final = 6
TAG_COUNTERSIGN: Final = 7
TAG_FAILURE: Final = 8
TAG_VOUCHER: Final = 9
TAG_OFFERS_WANTED: Final = 10
TAG_OFFERS_KNOWN: Final = 11
TAG_OFFER: Final = 12
TAG_CLAIM: Final = 13
TAG_CLAIM_REFUSED: Final = 14

TAG_ROOT_WANTED: Final = 20
TAG_FILE_WANTED: Final = 21
TAG_PROOF_WANTED: Final = 22
TAG_ROOT: Final = 23
TAG_PAIR: Final = 24
TAG_INCLUSION: Final = 25
TAG_EPOCH_ABSENT: Final = 26

# Limits on what a stranger can make us hold.
ASK_BYTES_MAX: Final = 17 * 1024 * 1024  # a 16 MiB HTTP body, re-encoded, plus its order
FRAME_BYTES_MAX: Final = 64 * 1024  # every other frame: one Noise message
OFFER_BYTES_MAX: Final = 16 * 1024  # 60 models of 250 bytes each
OFFERS_PER_ANSWER_MAX: Final = 32  # of full size they fill an answer
OFFERS_ANSWER_BYTES_MAX: Final = 512 * 1024  # 32 full offers
ENVELOPE_BYTES_MAX: Final = 8 * 1024  # an order or receipt is about 600 bytes
CBOR_DEPTH_MAX: Final = 16  # records nest 4 deep
CBOR_ITEMS_MAX: Final = 32_768  # in a body over FRAME_BYTES_MAX: four times a ChatJob of 1,024 turns
WRITE_BYTES_MAX: Final = 65_507  # one Yamux frame that fits one Noise message

STREAMS_PER_PEER_MAX: Final = 128  # jobs of one gateway on one node; half of Yamux's 256 per connection
CONNECTIONS_MAX: Final = 512  # of one peer, in and out: half of the usual 1024 open files
DIRECTORY_PEERS_MAX: Final = 4096  # a few MB; if offers are of full size, far fewer are kept
WATCHED_NODES_MAX: Final = 64  # at once; each sends at least an offer a second. If there are more, they take turns

# Time. `_s` is monotonic seconds, `_ms` is wall-clock milliseconds in signed records.
CLOCK_SKEW_MS_MAX: Final = 30_000  # NTP-less home machines drift by seconds, not minutes
OFFER_LIFE_MS_MAX: Final = 15 * 60_000
OFFER_PUT_INTERVAL_S: Final = 300.0  # a re-put needs a higher sequence to extend the record's life in the DHT
ORDER_LIFE_MS: Final = 60_000
WATCH_BEAT_S: Final = 1.0
WATCH_BEATS_MISSED_MAX: Final = 3  # one late beat is chance, three in a row are not
EXCHANGE_INTERVAL_S: Final = 10.0
COUNTERSIGN_TIMEOUT_S: Final = 30.0
STREAM_OPEN_TIMEOUT_S: Final = 5.0
ASK_TIMEOUT_S: Final = 30.0  # from the opened stream to a whole Ask

# Receipts.
OUTPUT_LEAF_TOKENS: Final = 32  # a leaf of 128 bytes: about two lines of text to show in a dispute
OUTPUT_LEAF_BYTES: Final = 64 * 1024  # of an answer that is no text: two seconds of speech
LANES_PER_GATEWAY_MAX: Final = 256  # twice STREAMS_PER_PEER_MAX, so that idle lanes are found again

# Vouchers: how much output comes before the first, for each service; see `cxp2p.vouchers`.
VOUCHER_TOKENS: Final = 256  # about 190 words: short answers need none
VOUCHER_VECTORS: Final = 256  # an eighth of the longest job
VOUCHER_AUDIO_MS: Final = 16_384  # about the speech of 60 tokens
VOUCHER_PAGES: Final = 4  # of at most 50
VOUCHER_DISTANCE_MAX: Final = 16  # times the first: distances double up to here
VOUCHER_ROOM: Final = 4  # times the first: what a node makes while a voucher is on its way
VOUCHER_TIMEOUT_S: Final = 30.0  # how long a node waits for vouchers in all of a job
VOUCHERS_PER_JOB_MAX: Final = 64  # 65,536 tokens take 20, the longest speech 36

# Claims.
CLAIMS_PER_STREAM_MAX: Final = 64  # one after another, then the stream is closed
CLAIM_TIMEOUT_S: Final = 30.0  # for the answer to one, and for the next one to come

# Epochs.
EPOCH_MS: Final = 3_600_000  # peers that try things out may agree on less: what follows keeps its proportion to it
EPOCH_GRACE_MS: Final = 10 * 60_000  # a receipt that comes later counts for the next epoch
EPOCH_LATE_MS: Final = 24 * 3_600_000  # one that comes later than that counts for none
EPOCHS_LATE_MAX: Final = 24  # what the two above leave: the last epoch that counts a receipt is so many after its own
EPOCH_RECEIPTS_MAX: Final = 10_000_000  # of one gateway in an hour: 2,800 jobs a second

# The DHT.
KAD_KEY_BYTES_MAX: Final = 80  # py-libp2p stores longer provider keys but can never fetch them
PROVIDERS_PER_KEY_MAX: Final = 20  # what a server of kad-dht keeps for one key
PROVIDER_SHARDS: Final = 16  # 320 providers in all for each service and model
