"""`moshi-mlx codec`: sound to Mimi's codes in a small file, and back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .common import KILLED, check_places, check_wav, note, path

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.codes import Codes
    from moshi_mlx.mimi import Mimi, MimiEncoder

HELP = "turn sound into Mimi's codes, or codes into sound"
EXAMPLE = "moshi-mlx codec encode speech.wav speech.codes --codebooks 8"

DEFAULT_CODEBOOKS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `encode` and `decode`, each with its own arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="encode|decode", required=True)
    encode = verbs.add_parser("encode", help="sound file in, codes file out")
    encode.add_argument("input", metavar="IN", type=path, help="sound file of any format and rate that soundfile reads")
    encode.add_argument("output", metavar="OUT", type=path, help="codes file (safetensors)")
    encode.add_argument(
        "--codebooks",
        type=int,
        default=DEFAULT_CODEBOOKS,
        metavar="N",
        help="1 to 32, at 137.5 bit/s each; Moshi uses 8 (default: %(default)s)",
    )
    decode = verbs.add_parser("decode", help="codes file in, wav file out")
    decode.add_argument("input", metavar="IN", type=path, help="codes file that `codec encode` made")
    decode.add_argument("output", metavar="OUT.wav", type=path, help="wav file, 24 kHz mono")
    decode.add_argument("--codebooks", type=int, metavar="N", help="use the first N only (default: all)")
    for verb in (encode, decode):
        weights = verb.add_mutually_exclusive_group()
        weights.add_argument(
            "--model", default="moshiko", help="model whose codec is used; tiny is built in (default: %(default)s)"
        )
        weights.add_argument("--mimi", metavar="FILE", type=path, help="the codec's weights, a safetensors file")
        verb.add_argument("--json", action="store_true", help="print the summary as one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Encode or decode; returns the exit code."""
    check_places(args.input, args.output)
    if args.verb == "decode":
        check_wav(args.output)
    return _encode(args) if args.verb == "encode" else _decode(args)


def _encode(args: argparse.Namespace) -> int:
    from moshi_mlx.audio_file import AudioReader
    from moshi_mlx.cli.display import progress
    from moshi_mlx.rates import FRAME_RATE

    reader = AudioReader(args.input)  # before the codec, whose weights take a moment
    encoder = _mimi(args, args.codebooks).encoder()
    codes = _encode_blocks(encoder, progress(reader, reader.duration * FRAME_RATE, "encoding"))
    codes.save(args.output)
    _report(
        args,
        codes,
        encoder.restarts,
        {
            "clipped_samples": encoder.clipped_samples,
            "mended_samples": reader.mended_samples + encoder.mended_samples,
        },
    )
    return 0


def _encode_blocks(encoder: MimiEncoder, blocks: Iterable[np.ndarray]) -> Codes:
    import numpy as np

    from moshi_mlx.codes import Codes
    from moshi_mlx.sound import whole_frame

    columns, samples = [], 0
    for block in blocks:
        samples += len(block)
        columns.append(encoder.encode(whole_frame(block)).astype(np.uint16))
    return Codes(np.stack(columns, axis=1), samples)


def _decode(args: argparse.Namespace) -> int:
    from moshi_mlx.audio_file import WavWriter
    from moshi_mlx.cli.display import progress
    from moshi_mlx.codes import Codes
    from moshi_mlx.rates import FRAME_SIZE

    codes = Codes.load(args.input)
    if args.codebooks is not None:
        codes = codes.first(args.codebooks)
    decoder = _mimi(args, codes.codebooks).decoder()
    left = codes.samples
    with WavWriter(args.output) as wav:
        for column in progress(codes.tokens.T, codes.frames, "decoding"):
            wav.write(decoder.decode(column)[:left])
            left -= FRAME_SIZE
    _report(args, codes, decoder.restarts, {})
    return 0


def _mimi(args: argparse.Namespace, codebooks: int) -> Mimi:
    from moshi_mlx.mimi import Mimi

    if args.mimi:
        return Mimi(args.mimi, codebooks)
    from moshi_mlx.checkpoint.hub import find_mimi

    from .download import agree

    return Mimi(find_mimi(args.model, agree, progress=True, notify=note), codebooks)


def _report(args: argparse.Namespace, codes: Codes, restarts: int, counts: dict[str, int]) -> None:
    from moshi_mlx.mimi import BIT_RATE_PER_CODEBOOK

    summary = {
        "output": str(args.output),
        "seconds": round(codes.duration, 3),
        "samples": codes.samples,
        "frames": codes.frames,
        "codebooks": codes.codebooks,
        "bits_per_second": BIT_RATE_PER_CODEBOOK * codes.codebooks,
        "bytes": args.output.stat().st_size,
        "codec_restarts": restarts,
        **counts,
    }
    if args.json:
        print(json.dumps(summary))
        return
    print(
        f"{summary['output']}: {codes.duration:.2f} s, {codes.frames} frames of {codes.codebooks} codebooks, "
        f"{summary['bits_per_second'] / 1000:.4g} kbps, file of {summary['bytes']:,} bytes"
    )
    for name, count in counts.items():
        if count:
            print(f"{count} {name.replace('_', ' ')} in the input")
    if restarts:
        note(f"{restarts} {KILLED}")
