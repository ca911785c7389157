"""What lensd measures of a LoRA file: fields of the log's lines, and of `--json`.

The worker's answers carry these types to the daemon, which makes `file.compressed` and
`file.analyzed` of them. A field that a line may lack is UNSET, and then absent; None is null.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
# Medians: whole where they are. A float alone would turn 16 into 16.0 on its way over the pipe.
Median = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
BlockMedian = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1)]
Decibels = Annotated[
    float | None,
    Meta(description="of the quantized factor tensors; null without quantization"),
]
DeltaDecibels = Annotated[
    float | None, Meta(description="of the quantized delta weight; null without quantization")
]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
EnergyShare = Annotated[str, Meta(pattern=r"^0\.[0-9]+$")]


class Ranks(Struct, frozen=True, kw_only=True):
    min: Count
    median: Median
    max: Count


class Energy(Struct, frozen=True, kw_only=True):
    """shares of the squared singular values"""

    min: Amount
    overall: Amount


Block = tuple[Count | None, Positive, BlockMedian, BlockMedian]
Blocks = Annotated[
    dict[str, Annotated[list[Block], Meta(min_length=1)]],
    Meta(
        description="per part of the model, for each block: its number or null, modules, "
        "median rank in, out"
    ),
]


class Spectrum(Struct, frozen=True, kw_only=True):
    """which share of the file's energy the first so many ranks of every module hold"""

    ranks: Annotated[list[Positive], Meta(min_length=1)]
    energy: Annotated[list[Share], Meta(min_length=1)]


class Seconds(Struct, frozen=True, kw_only=True):
    """of each stage; `wait` begins when the file is first noticed, and total includes it"""

    wait: Amount | UnsetType = UNSET
    read: Amount
    compute: Amount
    write: Amount | UnsetType = UNSET
    verify: Amount | UnsetType = UNSET
    archive: Amount | UnsetType = UNSET
    total: Amount | UnsetType = UNSET


class Encodings(Struct, frozen=True, kw_only=True):
    """how many modules are stored how"""

    int8: Count | UnsetType = UNSET
    float8: Count | UnsetType = UNSET
    float: Count | UnsetType = UNSET
    untouched: Count | UnsetType = UNSET


class FloatBecause(Struct, frozen=True, kw_only=True):
    """why how many modules of an int8 or ultra output are not in 8 bits"""

    targets: Positive | UnsetType = UNSET
    dora: Positive | UnsetType = UNSET
    noise: Positive | UnsetType = UNSET


class UntouchedBecause(Struct, frozen=True, kw_only=True):
    """why how many tensors were copied as they are"""

    tucker: Positive | UnsetType = UNSET
    dora: Positive | UnsetType = UNSET
    bias: Positive | UnsetType = UNSET
    norm: Positive | UnsetType = UNSET
    diff: Positive | UnsetType = UNSET
    other_adapter: Positive | UnsetType = UNSET
    dtype: Positive | UnsetType = UNSET
    shape: Positive | UnsetType = UNSET
    alpha_zero: Positive | UnsetType = UNSET
    orphan: Positive | UnsetType = UNSET
    other: Positive | UnsetType = UNSET


class Predicted(Struct, frozen=True, kw_only=True):
    """bytes per mode"""

    rank: Count
    int8: Count
    ultra: Count


class Measures(Struct, frozen=True, kw_only=True):
    """What is known of a LoRA's content."""

    family: Annotated[Text, Meta(description="sd15, sd2, sdxl, sd3, flux, ..., unknown")]
    naming: Text
    dtype_in: Text
    bytes_in: Count
    modules: Positive
    rank_in: Ranks
    rank_out: Ranks
    blocks: Blocks | UnsetType = UNSET
    spectrum: Spectrum | UnsetType = UNSET
    energy_retained: Energy
    seconds: Seconds
    device: Text
    device_note: (
        Annotated[Text, Meta(description="why it is not the one asked for")] | UnsetType
    ) = UNSET
    sha256_in: Sha256
    data_sha256_in: (
        Annotated[
            Sha256,
            Meta(
                description="of the tensors' bytes without the header; its first 12 digits are "
                "AutoV3. Absent since AutoV3 is computed after the job"
            ),
        ]
        | UnsetType
    ) = UNSET
    encodings: Encodings | UnsetType = UNSET
    float_because: FloatBecause | UnsetType = UNSET
    untouched_because: UntouchedBecause | UnsetType = UNSET
    forced_by: (
        Annotated[list[Text], Meta(description="the targets for which modules stayed float")]
        | UnsetType
    ) = UNSET
    warnings: (
        Annotated[list[Text], Meta(description="what a person should look at; absent: nothing")]
        | UnsetType
    ) = UNSET
    snr_db: Decibels | UnsetType = UNSET
    mse: Amount | UnsetType | None = UNSET
    mae: Amount | UnsetType | None = UNSET
    delta_snr_db: DeltaDecibels | UnsetType = UNSET


class Compressed(Measures, frozen=True, kw_only=True):
    """What the worker measured of an output, on the bytes read back."""

    dtype_out: Text
    bytes_out: Count
    delta_error: Annotated[
        Amount, Meta(description="relative, overall, measured on the bytes read back")
    ]
    delta_error_max: Annotated[Amount, Meta(description="of the worst module")]
    snr_db: Decibels
    mse: Amount | None
    mae: Amount | None
    delta_snr_db: DeltaDecibels
    sha256_out: Sha256
    data_sha256_out: (
        Annotated[Sha256, Meta(description="as `data_sha256_in`, of the output")] | UnsetType
    ) = UNSET


class Analyzed(Measures, frozen=True, kw_only=True):
    """What an output of mode ultra would be, and the bytes that each mode would give."""

    predicted: Predicted
    dtype_out: Text | UnsetType | None = UNSET
    delta_error: Amount | UnsetType | None = UNSET
    delta_error_max: Amount | UnsetType | None = UNSET


# `in` is a keyword, so that this field has another name in Python than in JSON.
class Module(
    Struct, frozen=True, kw_only=True, rename={"in_features": "in", "out_features": "out"}
):
    """One module in the output of `lensd analyze --json`."""

    module: Text
    out_features: Positive
    in_features: Positive
    rank: Positive
    bytes: Annotated[Positive, Meta(description="of its tensors in the file")]
    alpha: Annotated[float, Meta(description="the rank, if the file has no alpha")]
    norm: Annotated[Amount, Meta(description="Frobenius norm of the delta weight")]
    ranks: Annotated[
        dict[EnergyShare, Positive],
        Meta(description="the smallest rank that contains this share of the energy"),
    ]
    spectrum: Annotated[
        list[Amount], Meta(description="singular values of the delta weight, in falling order")
    ]


class Detailed(Analyzed, frozen=True, kw_only=True):
    """With every module that is a pair of factors, in file order.

    A file without pairs (LoHa, LoKr, Tucker) has no spectrum. Today's engine measures all others.
    """

    blocks: Blocks
    dtype_out: Text
    delta_error: Annotated[Amount, Meta(description="relative, of an output of mode ultra")]
    delta_error_max: Annotated[Amount, Meta(description="of the worst module")]
    details: list[Module]
