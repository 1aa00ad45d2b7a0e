// The reference string: which kinds there are, and whether the files of one are whole.
//
// bn254_g1.dat holds x‖y of a point for each power of the secret, bn254_g2.dat holds [x]₂ as
// x.c0, x.c1, y.c0, y.c1; 32 bytes a coordinate, big-endian, as bb reads them. The development
// string is made by the core (tools/reference_string.py), Ignition's is fetched by bb itself.

import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Powers of the secret that either circuit needs: its 2^17 rows. */
export const POINTS = 2 ** 17;

/** [x]₂ of Aztec's ceremony: x.c0, x.c1, y.c0, y.c1. */
export const IGNITION_G2 = [
  "0x0118c4d5b837bcc2bc89b5b398b5974e9f5944073b32078b7e231fec938883b0",
  "0x260e01b251f6f1c7e7ff4e580791dee8ea51d87a358e038b4efe30fac09383c1",
  "0x22febda3c0c0632a56475b4214e5615e11e6dd3f96e6cea2854a87d4dacc5e55",
  "0x04fc6369f7110fe3d25156c1bb9a72859cf2a04641f99ba4ee413c80da6a5fe4",
];

/** The reference string is missing, too short, or another than the keys were made with. */
export class CrsError extends Error {
  code = "no-crs";
}

/** [x]₂ of the string in the directory `path`: x.c0, x.c1, y.c0, y.c1 as 0x hex of 32 bytes. */
export function readG2(path) {
  const file = join(path, "bn254_g2.dat");
  let bytes;
  try {
    bytes = readFileSync(file);
  } catch {
    throw new CrsError(`no reference string: ${file} is missing`);
  }
  if (bytes.length !== 128) throw new CrsError(`${file} has ${bytes.length} bytes, not 128`);
  return [0, 32, 64, 96].map((at) => `0x${bytes.toString("hex", at, at + 32)}`);
}

/**
 * Refuses, with CrsError, what cannot prove under `reference` ({kind, g2}): a development string
 * that is missing, short, or not the one that the verification keys were made with. Ignition's may
 * be absent, for bb fetches it; if its files are there, they must be its.
 */
export function checkCrs(reference, path = process.env.CRS_PATH ?? join(homedir(), ".bb-crs")) {
  const size = (name) => statSync(join(path, name), { throwIfNoEntry: false })?.size;
  const points = size("bn254_g1.dat");
  const g2 = size("bn254_g2.dat");
  if (reference.kind === "ignition" && g2 === undefined) return;
  if (reference.kind === "dev" && points === undefined) {
    throw new CrsError(`no reference string: ${join(path, "bn254_g1.dat")} is missing; set CRS_PATH`);
  }
  if (points !== undefined && (points < POINTS * 64 || points % 64 !== 0)) {
    throw new CrsError(
      `${join(path, "bn254_g1.dat")} has ${points} bytes; proving needs at least ${POINTS * 64}, a multiple of 64`,
    );
  }
  if (readG2(path).join() !== reference.g2.join()) {
    throw new CrsError(
      `the reference string in ${path} is not the ${reference.kind} one that the verification ` +
        "keys were made with: set CRS_PATH, or build the verifiers again",
    );
  }
}
