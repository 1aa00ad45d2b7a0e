#!/usr/bin/env node
// Makes each circuit's verification key (<name>.vk) and its Solidity verifier, and reference.json,
// which says under which reference string: {"kind": …, "g2": […]}.
//
//   node verifiers.mjs [--crs dev|ignition] [--crs-path DIR] [--circuits DIR] [--out DIR]
//
// Barretenberg writes an optimised verifier that has [x]₂ of Aztec's ceremony built in. With the
// development string these four coordinates are replaced, and the contract refuses any chain but
// the devnet, at construction and at every proof: the string's secret is published, so anybody can
// prove anything under it.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { gunzipSync } from "node:zlib";
import { EVM, startBarretenberg } from "./barretenberg.mjs";
import { checkCrs, CrsError, IGNITION_G2, readG2 } from "./crs.mjs";
import { ARTIFACTS, CIRCUITS, DEV_CRS, VERIFIERS } from "./layout.mjs";

/** The only chain id on which a verifier under the development string works: anvil's. */
export const DEV_CHAIN_ID = 31337;

/** The order of the pairing precompile: x.c1, x.c0, y.c1, y.c0. */
const precompileOrder = ([x0, x1, y0, y1]) => [x1, x0, y1, y0];

/** `source` with `from` replaced, which must be there exactly `count` times. */
function replaceExactly(source, from, to, count = 1) {
  const parts = source.split(from);
  if (parts.length - 1 !== count) {
    throw new Error(
      `the generated verifier has «${from}» ${parts.length - 1} times, not ${count}: ` +
        "this is another version of bb.js than package-lock.json says",
    );
  }
  return parts.join(to);
}

/**
 * Barretenberg's verifier made ours: named after its circuit, so that several live in one
 * project, and bound to the reference string ({kind, g2}, coordinates as readG2 gives them).
 */
export function adapt(source, name, { kind, g2 }) {
  const contract = `${name[0].toUpperCase()}${name.slice(1)}Verifier`;
  const prefix = name.toUpperCase();
  let code = source.trimStart();

  // Names that stand outside the contract get the circuit's, so that one file can import both.
  for (const [, constant] of [...code.matchAll(/^uint256 constant (\w+) =/gm)]) {
    code = code.replace(new RegExp(`\\b${constant}\\b`, "g"), `${prefix}_${constant}`);
  }
  code = code.replace(/\bIVerifier\b/g, `I${contract}`);
  code = replaceExactly(code, "contract HonkVerifier is", `contract ${contract} is`);

  const ignition = precompileOrder(IGNITION_G2);
  const places = ignition.map((coordinate) => code.split(coordinate).length - 1);
  if (places.some((count) => count !== 1)) {
    throw new Error(`Ignition's [x]₂ is in the verifier ${places} times, not once a coordinate`);
  }
  const dev = kind === "dev";
  if (dev) {
    precompileOrder(g2).forEach((coordinate, i) => {
      code = replaceExactly(code, ignition[i], coordinate);
    });
  }

  const guard = dev
    ? `if (block.chainid != ${DEV_CHAIN_ID}) revert DevelopmentReferenceString(block.chainid);`
    : "";
  code = replaceExactly(
    code,
    "constructor() {}",
    `/// Which reference string this verifier trusts: "dev" or "ignition".
    string public constant REFERENCE_STRING = "${kind}";
    /// The hash of the circuit's verification key.
    bytes32 public constant VERIFICATION_KEY = bytes32(${prefix}_VK_HASH);
${dev ? `
    /// The development string's secret is published: anybody can prove anything under it.
    error DevelopmentReferenceString(uint256 chainId);
` : ""}
    constructor() {${dev ? `\n        ${guard}\n    ` : ""}}`,
  );
  if (dev) {
    const signature = /(function verify\([^)]*\)[^{;]*\{)/g;
    const found = [...code.matchAll(signature)];
    if (found.length !== 1) throw new Error(`verify() found ${found.length} times in the verifier`);
    code = code.replace(signature, `$1\n        ${guard}`);
  }
  return { contract, code };
}

/**
 * Verification keys and verifiers of `names`: <circuits>/<name>.vk and <out>/<Name>Verifier.sol.
 * `crs` is the kind, `crsPath` its directory (for ignition optional: bb has its own place).
 */
export async function makeVerifiers({ circuits, out, crs, crsPath, names = CIRCUITS }) {
  if (crs !== "dev" && crs !== "ignition") {
    throw new Error(`unknown reference string «${crs}»: dev or ignition`);
  }
  const reference = { kind: crs, g2: crs === "dev" ? readG2(crsPath) : IGNITION_G2 };
  checkCrs(reference, crsPath);
  const bb = startBarretenberg({ crs: crsPath });
  const made = [];
  try {
    for (const name of names) {
      const program = JSON.parse(readFileSync(join(circuits, `${name}.json`), "utf8"));
      const bytecode = gunzipSync(Buffer.from(program.bytecode, "base64"));
      const { bytes } = await bb.circuitComputeVk({ circuit: { name, bytecode }, settings: EVM });
      const { solidityCode } = await bb.circuitWriteSolidityVerifier({
        verificationKey: bytes,
        settings: EVM,
      });
      made.push({ name, key: bytes, ...adapt(solidityCode, name, reference) });
    }
  } catch (error) {
    if (!/HTTP request failed/.test(error.message)) throw error;
    throw new CrsError(
      "Ignition's reference string could not be fetched: it takes a network, or CRS_PATH with its files",
    );
  } finally {
    await bb.destroy();
  }
  // Keys, verifiers and the string's name belong together, so nothing is written until all is made.
  mkdirSync(out, { recursive: true });
  for (const { name, key, contract, code } of made) {
    writeFileSync(join(circuits, `${name}.vk`), key);
    writeFileSync(join(out, `${contract}.sol`), code);
    console.log(`${name}: ${contract}.sol, reference string ${crs}`);
  }
  writeFileSync(join(circuits, "reference.json"), `${JSON.stringify(reference)}\n`);
}

if (import.meta.filename === process.argv[1]) {
  const { values } = parseArgs({
    options: {
      crs: { type: "string", default: "dev" },
      "crs-path": { type: "string" },
      circuits: { type: "string", default: ARTIFACTS },
      out: { type: "string", default: VERIFIERS },
    },
  });
  const crsPath = values["crs-path"] ?? process.env.CRS_PATH ?? (values.crs === "dev" ? DEV_CRS : undefined);
  await makeVerifiers({ circuits: values.circuits, out: values.out, crs: values.crs, crsPath }).catch((error) => {
    console.error(`verifiers: ${error.message}`);
    process.exitCode = 1;
  });
}
