// The Solidity verifiers: bound to one reference string, and under the development string to one chain.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { gunzipSync } from "node:zlib";
import { EVM, startBarretenberg } from "../../node/barretenberg.mjs";
import { IGNITION_G2, readG2 } from "../../node/crs.mjs";
import { ARTIFACTS, CIRCUITS, DEV_CRS, REPO, VERIFIERS } from "../../node/layout.mjs";
import { adapt } from "../../node/verifiers.mjs";
import { load } from "./acvm.mjs";
import { bytecodeOf, Devnet, verifyCalldata } from "./evm.mjs";

const { keccak256 } = load("js-sha3");

const dev = { kind: "dev", g2: readG2(DEV_CRS) };
const ignition = { kind: "ignition", g2: IGNITION_G2 };
const written = {};
let bb;

before(async () => {
  bb = startBarretenberg({ crs: DEV_CRS });
  for (const name of CIRCUITS) {
    const program = JSON.parse(readFileSync(join(ARTIFACTS, `${name}.json`), "utf8"));
    const bytecode = gunzipSync(Buffer.from(program.bytecode, "base64"));
    const { bytes } = await bb.circuitComputeVk({ circuit: { name, bytecode }, settings: EVM });
    assert.deepEqual(Buffer.from(bytes), readFileSync(join(ARTIFACTS, `${name}.vk`)));
    const { solidityCode } = await bb.circuitWriteSolidityVerifier({ verificationKey: bytes, settings: EVM });
    written[name] = solidityCode;
  }
});
after(() => bb.destroy());

it("are what the circuits and the development string make", () => {
  for (const name of CIRCUITS) {
    const { contract, code } = adapt(written[name], name, dev);
    assert.ok(code === readFileSync(join(VERIFIERS, `${contract}.sol`), "utf8"), `${contract}.sol is stale: make setup`);
  }
});

it("hold the development string's point and none of Ignition's", () => {
  const { code } = adapt(written.ctc, "ctc", dev);
  for (const coordinate of dev.g2) assert.equal(code.split(coordinate).length, 2);
  for (const coordinate of IGNITION_G2) assert.ok(!code.includes(coordinate));
});

it("hold Ignition's point, and no word of a devnet, when built with it", () => {
  const { code } = adapt(written.ctc, "ctc", ignition);
  for (const coordinate of IGNITION_G2) assert.equal(code.split(coordinate).length, 2);
  assert.ok(!/chainid|DevelopmentReferenceString/.test(code));
  assert.match(code, /REFERENCE_STRING = "ignition"/);
});

it("are not made of a source that holds Ignition's point more or less than once", () => {
  for (const coordinate of IGNITION_G2) {
    const fewer = written.ctc.replace(coordinate, dev.g2[0]);
    const more = `${written.ctc}\n// ${coordinate}\n`;
    for (const source of [fewer, more]) {
      for (const reference of [dev, ignition]) {
        assert.throws(() => adapt(source, "ctc", reference), /Ignition's \[x\]₂ is in the verifier/);
      }
    }
  }
});

it("are not made of another bb's source", () => {
  assert.throws(() => adapt(written.ctc.replace("contract HonkVerifier", "contract Other"), "ctc", dev), /another version of bb/);
  assert.throws(() => adapt(written.ctc.replace("constructor() {}", ""), "ctc", dev), /another version of bb/);
});

it("share no name outside their contracts, so that one file can import both", () => {
  const names = CIRCUITS.map((name) =>
    [...adapt(written[name], name, dev).code.matchAll(/^(?:uint256 constant|interface|contract|library) (\w+)/gm)].map(([, n]) => n),
  );
  assert.ok(names[0].length > 5);
  assert.deepEqual(names[0].filter((name) => names[1].includes(name)), []);
});

it("refuse any chain but the devnet under the development string, at construction and at every proof", async () => {
  const bytecode = bytecodeOf("CtcVerifier", adapt(written.ctc, "ctc", dev).code);
  const elsewhere = await Devnet.start({ chainId: 1 });
  try {
    await assert.rejects(elsewhere.deploy(bytecode), /revert/);
  } finally {
    await elsewhere.close();
  }
  const devnet = await Devnet.start();
  try {
    const at = await devnet.deploy(bytecode);
    const call = { to: at, data: verifyCalldata("0x", []) };
    const refusal = () => devnet.rpc("eth_call", call, "latest").then(assert.fail, (error) => error.data);
    const here = await refusal();
    await devnet.rpc("anvil_setChainId", 1);
    const there = await refusal();
    assert.notEqual(here, there);
    const selector = keccak256("DevelopmentReferenceString(uint256)").slice(0, 8);
    assert.equal(there, `0x${selector}${"1".padStart(64, "0")}`);
  } finally {
    await devnet.close();
  }
});

it("compile with what forge is given as its solc", () => {
  const solc = join(REPO, "node", "solc.mjs");
  assert.match(execFileSync(solc, ["--version"], { encoding: "utf8" }), /^Version: 0\.8\.30\+commit\./m);
  const input = { language: "Solidity", sources: { a: { content: "contract A {}" } }, settings: { outputSelection: { "*": { "*": ["abi"] } } } };
  const output = JSON.parse(execFileSync(solc, ["--standard-json"], { input: JSON.stringify(input), encoding: "utf8" }));
  assert.ok(output.contracts.a.A);
});
