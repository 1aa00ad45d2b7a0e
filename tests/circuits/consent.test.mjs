// What the signature check refuses, on both of its sides: in the solver that honest parties run,
// and in the proving system's own gates, with the circuit's wires set as a cheat would set them and
// a real verifier as the judge. (Wires inside Barretenberg's gadget are filled by Barretenberg.)

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { gunzipSync } from "node:zlib";
import { EVM, startBarretenberg } from "../../node/barretenberg.mjs";
import { compile } from "../../node/compile.mjs";
import { readG2 } from "../../node/crs.mjs";
import { DEV_CRS } from "../../node/layout.mjs";
import { hex } from "../../node/prover.mjs";
import { adapt } from "../../node/verifiers.mjs";
import { load } from "./acvm.mjs";
import { digestOf, keccak, number } from "./custody.mjs";
import { bytecodeOf, Devnet } from "./evm.mjs";
import { add, bytes32, inverse, multiply, N, P, sign, wallet } from "./secp256k1.mjs";

const { Noir, acvm } = load("@noir-lang/noir_js");
const signatureOf = (r, s) => [...bytes32(r), ...bytes32(s)];
const low = (s) => (s > N / 2n ? N - s : s);

let bb;
let devnet;
let noir;
let circuit;
let verifier;
let honestStack;

const key = wallet();
const digest = [...randomBytes(32)];
const honest = { x: key.x, y: key.y, signature: sign(key, digest), digest };

before(async () => {
  bb = startBarretenberg({ crs: DEV_CRS });
  const program = await compile(join(import.meta.dirname, "consent"));
  noir = new Noir(program);
  const bytecode = gunzipSync(Buffer.from(program.bytecode, "base64"));
  const { bytes } = await bb.circuitComputeVk({ circuit: { name: "consent", bytecode }, settings: EVM });
  circuit = { name: "consent", bytecode, verificationKey: bytes };
  const { solidityCode } = await bb.circuitWriteSolidityVerifier({ verificationKey: bytes, settings: EVM });
  const { contract, code } = adapt(solidityCode, "consent", { kind: "dev", g2: readG2(DEV_CRS) });
  devnet = await Devnet.start();
  verifier = await devnet.deploy(bytecodeOf(contract, code));
  honestStack = (await noir.execute(honest)).witness;
});
after(async () => {
  await devnet?.close();
  await bb?.destroy();
});

/** Whether the solver finds a witness. */
const solves = (inputs) => noir.execute(inputs).then(() => true, () => false);

/**
 * Whether a verifier can be brought to accept `inputs`: they replace those of an honest witness,
 * whose every other wire, the check's own «true» among them, stays.
 */
async function convinces(inputs) {
  const stack = acvm.decompressWitnessStack(honestStack);
  [...inputs.x, ...inputs.y, ...inputs.signature, ...inputs.digest].forEach((byte, wire) =>
    stack[0].witness.set(wire, `0x${byte.toString(16).padStart(64, "0")}`),
  );
  const witness = gunzipSync(acvm.compressWitnessStack(stack));
  const { proof, publicInputs } = await bb.circuitProve({ circuit, witness, settings: EVM });
  return devnet.verify(verifier, hex(Buffer.concat(proof)), publicInputs.map(hex));
}

it("accepts a key's own signature with low s", async () => {
  assert.ok(await solves(honest));
  assert.ok(await convinces(honest));
});

it("accepts what eth-account signs, over the digests that eth-account makes", async () => {
  const path = join(import.meta.dirname, "..", "vectors", "authorisation.json");
  const { keys, verifyingContract, ctc, cta } = JSON.parse(readFileSync(path, "utf8"));
  const octets = (text) => [...Buffer.from(text.slice(2), "hex")];
  const struct = {
    ctc: (call) => [
      call.nullifier0, call.nullifier1, call.commitment0, call.commitment1, call.relayer,
      call.feeToken, call.fee, number(keccak(octets(call.memo0 + call.memo1.slice(2)))), call.deadline,
    ],
    cta: (call) => [
      call.nullifier0, call.nullifier1, call.change, call.token, call.amount, call.recipient,
      call.relayer, call.fee, number(keccak(octets(call.memo))), call.deadline,
    ],
  };
  for (const [move, calls] of Object.entries({ ctc, cta })) {
    for (const call of calls) {
      const made = digestOf(move, struct[move](call), {
        chainId: BigInt(call.chainId),
        verifying: BigInt(verifyingContract),
      });
      assert.equal(`0x${made.toString("hex")}`, call.digest);
      const publicKey = octets(keys[call.signer].publicKey);
      const inputs = {
        x: publicKey.slice(0, 32),
        y: publicKey.slice(32),
        signature: octets(call.signature).slice(0, 64),
        digest: octets(call.digest),
      };
      assert.ok(await solves(inputs));
      assert.equal(await solves({ ...inputs, digest }), false);
    }
  }
});

// A signature that would hold for the key at infinity, were that a key: R = (z/s)·G.
const nonce = 0x5eedn;
const atInfinity = signatureOf(
  multiply(nonce).x % N,
  low((number(digest) * inverse(nonce, N)) % N),
);
// A key whose x is so small that x + p still has 32 bytes, with a signature that holds for it:
// R = u1·G + u2·Q, r = R.x, s = r/u2, z = u1·s.
const small = (() => {
  for (let x = 1n; ; x += 1n) {
    const square = (x ** 3n + 7n) % P;
    let y = 1n;
    for (let power = (P + 1n) / 4n, base = square; power > 0n; power >>= 1n, base = (base * base) % P) {
      if (power & 1n) y = (y * base) % P;
    }
    if ((y * y) % P !== square) continue;
    for (let u1 = 2n; ; u1 += 1n) {
      const { x: rx } = add(multiply(u1), multiply(3n, { x, y }));
      const s = (rx * inverse(3n, N)) % N;
      if (s <= N / 2n) return { x, y, signature: signatureOf(rx, s), digest: bytes32((u1 * s) % N) };
    }
  }
})();

it("accepts a key with a small x in its one form", async () => {
  const canonical = { ...small, x: bytes32(small.x), y: bytes32(small.y) };
  assert.ok(await solves(canonical));
  assert.ok(await convinces(canonical));
});

const spread = (bytes) => {
  const at = bytes.findIndex((byte, i) => byte > 0 && i < 15);
  return bytes.map((byte, i) => (i === at ? byte - 1 : i === at + 1 ? byte + 256 : byte));
};

for (const [name, change] of [
  ["high s", { signature: sign(key, digest, { high: true }) }],
  ["s + n", { signature: signatureOf(number(honest.signature.slice(0, 32)), N + 5n) }],
  ["r = 0", { signature: signatureOf(0n, number(honest.signature.slice(32))) }],
  ["s = 0", { signature: signatureOf(number(honest.signature.slice(0, 32)), 0n) }],
  ["r = n", { signature: signatureOf(N, number(honest.signature.slice(32))) }],
  ["a signature of zeros", { signature: Array(64).fill(0) }],
  ["another digest", { digest: digest.map((byte, i) => (i === 31 ? byte ^ 1 : byte)) }],
  ["another key's x and y", (({ x, y }) => ({ x, y }))(wallet())],
  ["the key's mirror image", { y: bytes32(P - number(key.y)) }],
  ["a point off the curve", { y: bytes32((number(key.y) + 1n) % P) }],
  ["a key of zeros", { x: Array(32).fill(0), y: Array(32).fill(0) }],
  ["a key of zeros, with what would sign for infinity",
    { x: Array(32).fill(0), y: Array(32).fill(0), signature: atInfinity }],
  ["a key whose x is above the curve's prime",
    { x: bytes32(small.x + P), y: bytes32(small.y), signature: small.signature, digest: small.digest }],
  ["a key whose bytes are not bytes", { x: spread(key.x) }],
]) {
  it(`refuses ${name}`, async () => {
    const inputs = { ...honest, ...change };
    assert.equal(await solves(inputs), false, "the solver found a witness");
    assert.equal(await convinces(inputs), false, "the verifier was convinced");
  });
}
