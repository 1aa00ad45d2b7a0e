"""A C program links the plain library and runs every function, right and wrong."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
C = ["cc", "-std=c11"]
CPP = ["c++", "-std=c++17", "-x", "c++"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread"]

Compile = Callable[..., Path]


def octets(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def array(name: str, content: bytes) -> str:
    return f"static const uint8_t {name}[] = {{{', '.join(map(str, content))}}};\n"


def numbers(kind: str, name: str, content: list[int]) -> str:
    return f"static const {kind} {name}[] = {{{', '.join(map(str, content))}}};\n"


@pytest.fixture(scope="module")
def compile_c(
    c_library: Path, frame_vectors: Any, tmp_path_factory: pytest.TempPathFactory
) -> Compile:
    """Compiles sources against the header and the library; gives the program."""
    directory = tmp_path_factory.mktemp("program")
    frames = frame_vectors["frames"]
    hashes = {frame["payload"]: frame["payloadHash"] for frame in frames}
    (directory / "vectors.h").write_text(
        f"#define FRAMES {len(frames)}\n"
        + array("DOMAIN", octets(frame_vectors["domain"]))
        + array("CUSTODY", octets(frame_vectors["custody"]))
        + array("KEYS", b"".join(octets(key["publicKey"]) for key in frame_vectors["keys"]))
        + array("ADDRESSES", b"".join(octets(key["address"]) for key in frame_vectors["keys"]))
        + array("BYTES", b"".join(octets(frame["raw"]) for frame in frames))
        + array("DIGESTS", b"".join(octets(frame["digest"]) for frame in frames))
        + array("SIGNATURES", b"".join(octets(frame["signature"]) for frame in frames))
        + array("R_YS", b"".join(octets(frame["rY"]) for frame in frames))
        + array("PAYLOAD_HASHES", b"".join(octets(frame["payloadHash"]) for frame in frames))
        + array("HASH_OF_NOTHING", octets(hashes["0x"]))
        + numbers("size_t", "LENGTHS", [len(octets(frame["raw"])) for frame in frames])
        + numbers("uint32_t", "LANES", [int(frame["lane"]) for frame in frames])
    )

    def compiled(name: str, *sources: Path, language: list[str] = C) -> Path:
        if shutil.which(language[0]) is None:
            pytest.skip(f"there is no {language[0]}")
        program = directory / name
        paths = ["-I", str(c_library / "include"), "-I", str(directory)]
        library = c_library / "lib"
        links = ["-L", str(library), "-lpsymm", f"-Wl,-rpath,{library}"]
        made = subprocess.run(
            [*language, *WARNINGS, *paths, *map(str, sources), *links, "-o", str(program)],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        return program

    return compiled


@pytest.fixture(scope="module")
def program(compile_c: Compile) -> Path:
    return compile_c("abi", HERE / "abi.c")


@pytest.mark.parametrize("backend", ["portable", "avx2", "avx512"])
def test_every_function_does_what_the_header_says_on_every_backend(
    program: Path, backend: str
) -> None:
    ran = subprocess.run(
        [str(program)], capture_output=True, text=True, env={"PSYMM_BACKEND": backend}
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "all held\n"


def test_the_header_and_the_program_are_cpp_as_well(compile_c: Compile) -> None:
    program = compile_c("abi-cpp", HERE / "abi.c", language=CPP)
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_no_byte_is_read_or_written_out_of_place_and_none_is_lost(program: Path) -> None:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("there is no valgrind")
    # Memcheck knows no AVX-512.
    ran = subprocess.run(
        [
            valgrind,
            "--quiet",
            "--error-exitcode=99",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect,possible",
            str(program),
        ],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PSYMM_BACKEND": "avx2"},
    )
    assert ran.returncode == 0, ran.stderr


def test_the_example_says_which_signature_is_not_the_keys(
    compile_c: Compile, tmp_path: Path
) -> None:
    main = tmp_path / "main.c"
    main.write_text(
        '#include <psymm.h>\n#include <string.h>\n#include "vectors.h"\n'
        "int all_signed_by(const uint8_t *, const uint8_t *, const uint8_t *, size_t);\n"
        "int main(void) {\n"
        "    uint8_t signatures[sizeof SIGNATURES];\n"
        "    memcpy(signatures, SIGNATURES, sizeof signatures);\n"
        "    if (!all_signed_by(KEYS, DIGESTS, signatures, 1)) return 1;\n"
        "    signatures[64] = 0;\n"
        "    (void)CUSTODY; (void)DOMAIN; (void)ADDRESSES; (void)BYTES; (void)R_YS;\n"
        "    (void)PAYLOAD_HASHES; (void)HASH_OF_NOTHING; (void)LENGTHS; (void)LANES;\n"
        "    return all_signed_by(KEYS, DIGESTS, signatures, 1);\n"
        "}\n"
    )
    program = compile_c("example", HERE / "example.c", main)
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "signature 0: bad-v\n")
