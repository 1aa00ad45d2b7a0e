"""The header, its Rust code, the shared objects and the C program agree in names and types."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cffi import FFI

from psymm import capi

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "include" / "psymm.h").read_text("ascii")
# What a Rust parameter is in C.
TYPES = {
    "u32": "uint32_t",
    "i32": "int32_t",
    "usize": "size_t",
    "u8": "uint8_t",
    "c_char": "char",
    "CRefusal": "psymm_refusal",
    "CFrame": "psymm_frame",
    "CFault": "psymm_fault",
    "CLaneKey": "psymm_lane_key",
    "CSummary": "psymm_summary",
}
# A prototype is at the start of a line; what a comment says of one is not.
PROTOTYPE = re.compile(r"^([a-z][\w ]*[ *])(psymm_\w+)\(([^)]*)\);", re.MULTILINE)


def in_header() -> dict[str, tuple[str, list[str]]]:
    """Each function's type and its parameters' types."""
    found = {}
    for result, name, parameters in PROTOTYPE.findall(HEADER):
        types = [
            re.sub(r"\w+$", "", parameter.strip()).replace(" ", "")
            for parameter in parameters.split(",")
            if parameter.strip() != "void"
        ]
        found[name] = (result.replace(" ", ""), types)
    return found


def in_rust() -> dict[str, tuple[str, list[str]]]:
    source = (ROOT / "core" / "src" / "c" / "mod.rs").read_text()
    exported = re.compile(
        r'#\[unsafe\(no_mangle\)\]\npub (?:unsafe )?extern "C" fn (psymm_\w+)'
        r"\(([^)]*)\) -> ([^{]+) \{"
    )

    def in_c(rust: str) -> str:
        *pointers, base = re.split(r" (?=[\w*]+(?: |$))", rust.strip())
        kind = TYPES[base]
        # From the inside out: *const *const T is a T const * const *.
        spelt = kind
        for pointer in reversed(pointers):
            constant = pointer == "*const"
            if spelt == kind:
                spelt = f"const{kind}*" if constant else f"{kind}*"
            else:
                spelt = f"{spelt}const*" if constant else f"{spelt}*"
        return spelt

    return {
        name: (in_c(result), [in_c(p.split(":")[1]) for p in parameters.split(",") if p.strip()])
        for name, parameters, result in exported.findall(source)
    }


def exported(library: Path) -> set[str]:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("there is no nm")
    listed = subprocess.run(
        [nm, "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    return {name for name in names if name.startswith("psymm_")}


def test_the_header_declares_what_rust_defines_type_by_type() -> None:
    assert in_header() == in_rust()
    assert len(in_header()) == HEADER.count("\n * Returns:")


def test_the_wheels_shared_object_exports_what_the_header_declares() -> None:
    assert exported(capi.library_path()) == set(in_header())


def test_the_plain_library_exports_the_same_and_needs_no_python(c_library: Path) -> None:
    (library,) = (c_library / "lib").iterdir()
    assert exported(library) == set(in_header())
    undefined = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    assert not re.search(r" _?Py", undefined.stdout)


def test_the_c_program_calls_every_function() -> None:
    program = (Path(__file__).parent / "abi.c").read_text()
    assert {name for name in in_header() if f"{name}(" not in program} == set()


def test_there_is_one_header_wherever_it_is_asked_for(c_library: Path) -> None:
    assert (c_library / "include" / "psymm.h").read_text("ascii") == HEADER
    assert capi.header_path().read_text("ascii") == HEADER
    assert capi.header_path() == capi.include_dir() / "psymm.h"


def test_python_reads_the_structures_at_the_sizes_that_the_header_states() -> None:
    ffi = FFI()
    ffi.cdef(capi._declarations(HEADER))
    stated = re.findall(r"(\d+) bytes\. \*/\ntypedef struct (\w+)", HEADER)
    assert len(stated) == HEADER.count("typedef struct")
    for size, name in stated:
        assert ffi.sizeof(name) == int(size)


def test_every_code_has_a_name_and_a_text_of_its_own() -> None:
    codes = [int(number) for number in re.findall(r"^    PSYMM_\w+ = (\d+)", HEADER, re.MULTILINE)]
    texts = {capi.error_message(code) for code in codes}
    assert len(texts) == len(codes) > 30
    assert all(capi.error_name(code) != "unknown" for code in codes)
    assert capi.error_name(99_999) == "unknown"
    assert "unknown" in capi.error_message(99_999)
