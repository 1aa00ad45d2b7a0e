// Makes poseidon2.json: hashes, notes and trees as Barretenberg computes them.
//
//     node tests/vectors/make_poseidon2.mjs          (after `npm ci` in node/)
//
// Every hash here is made by bb.js, none by pSymm's own code, so the file is an oracle for
// Rust, Noir, Solidity and Python alike. The tree is written down from its definition a second
// time, top down, where the core grows it from the leaves up. All values are 32 bytes of
// lower-case hexadecimal with 0x, big-endian; indices and sizes are numbers.

import { createECDH, createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const tools = createRequire(new URL("../../node/package.json", import.meta.url));
const entry = tools.resolve("@aztec/bb.js").replace("node-cjs", "node");
const { BarretenbergSync } = await import(pathToFileURL(entry).href);
const bb = await BarretenbergSync.new();

const MODULUS = 0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001n;
const HALF = (1n << 128n) - 1n;

const hex = (value) => "0x" + value.toString(16).padStart(64, "0");
const bytes = (value) => Uint8Array.from(Buffer.from(hex(value).slice(2), "hex"));
const number = (octets) => BigInt("0x" + Buffer.from(octets).toString("hex"));

const H = (...inputs) => number(bb.poseidon2Hash({ inputs: inputs.map(bytes) }).hash);
const permute = (state) =>
  bb.poseidon2Permutation({ inputs: state.map(bytes) }).outputs.map(number);

// Numbers that look random and are the same in every run.
const drawn = (label) =>
  number(createHash("sha256").update("pSymm vector " + label).digest()) % MODULUS;

const publicKey = (secret) => {
  const curve = createECDH("secp256k1");
  curve.setPrivateKey(Buffer.from(bytes(secret)));
  const point = curve.getPublicKey(null, "uncompressed");
  return { x: number(point.subarray(1, 33)), y: number(point.subarray(33)) };
};
const keyHash = ({ x, y }) => H(x >> 128n, x & HALF, y >> 128n, y & HALF);

const edges = [0n, 1n, 2n, HALF, 1n << 128n, MODULUS - 2n, MODULUS - 1n];

const permutations = [
  [0n, 0n, 0n, 0n],
  [0n, 1n, 2n, 3n],
  [1n, 0n, 0n, 0n],
  [0n, 0n, 0n, 1n],
  [MODULUS - 1n, MODULUS - 1n, MODULUS - 1n, MODULUS - 1n],
  ...[0, 1, 2, 3].map((i) => [0, 1, 2, 3].map((j) => drawn(`state ${i} ${j}`))),
].map((state) => ({ state: state.map(hex), result: permute(state).map(hex) }));

const hashes = [];
for (const length of [1, 2, 3, 4, 5]) {
  for (const edge of edges) hashes.push(Array(length).fill(edge));
  for (let i = 0; i < length; i++) {
    hashes.push(Array.from({ length }, (_, j) => (i === j ? MODULUS - 1n : 0n)));
  }
  for (const run of [0, 1, 2, 3]) {
    hashes.push(Array.from({ length }, (_, j) => drawn(`input ${length} ${run} ${j}`)));
  }
}
for (const length of [0, 6, 7, 9, 10]) {
  hashes.push(Array.from({ length }, (_, j) => drawn(`long ${length} ${j}`)));
}

const custodies = [];
for (const [trader, solver, sole] of [
  [1n, 2n, false],
  [drawn("trader"), drawn("solver"), false],
  [drawn("solver"), drawn("trader"), false],
  [drawn("owner"), drawn("owner"), true],
]) {
  const [t, s] = [publicKey(trader), publicKey(solver)];
  const terms = sole ? 0n : number(createHash("sha256").update(`terms ${trader}`).digest());
  const salt = sole ? 0n : H(drawn(`nonce t ${trader}`), drawn(`nonce s ${solver}`));
  const [keyTrader, keySolver] = [keyHash(t), keyHash(s)];
  custodies.push({
    sole,
    trader: { x: hex(t.x), y: hex(t.y), key: hex(keyTrader) },
    solver: { x: hex(s.x), y: hex(s.y), key: hex(keySolver) },
    terms: hex(terms),
    salt: hex(salt),
    custodyId: hex(H(keyTrader, keySolver, terms >> 128n, terms & HALF, salt)),
  });
}

const notes = [];
const tokens = [1n, drawn("token") & ((1n << 160n) - 1n), (1n << 160n) - 1n];
for (const [i, amount] of [0n, 1n, 1_000_000n, 123_456_789_012n, HALF].entries()) {
  const custodyId = BigInt(custodies[i % custodies.length].custodyId);
  for (const blinding of [1n, drawn(`blinding ${i}`), MODULUS - 1n]) {
    const token = tokens[i % tokens.length];
    const inner = H(custodyId, blinding);
    const commitment = H(inner, token, amount);
    notes.push({
      custodyId: hex(custodyId),
      blinding: hex(blinding),
      token: hex(token),
      amount: hex(amount),
      inner: hex(inner),
      commitment: hex(commitment),
      nullifier: hex(H(commitment, blinding, 1n)),
    });
  }
}

// The root over leaves[from, from + 2^height), and the way down to one of them. A part of the
// range without leaves has no node, and its neighbour stands for both.
const memo = new Map();
const node = (leaves, from, height) => {
  if (from >= leaves.length) return null;
  if (height === 0) return leaves[from];
  const name = `${leaves.length} ${from} ${height}`;
  if (!memo.has(name)) {
    const [left, right] = [
      node(leaves, from, height - 1),
      node(leaves, from + 2 ** (height - 1), height - 1),
    ];
    memo.set(name, right === null ? left : H(left, right));
  }
  return memo.get(name);
};
const way = (leaves, leafIndex, depth) => {
  const siblings = [];
  let index = 0;
  for (let height = 0; height < depth; height++) {
    const position = Math.floor(leafIndex / 2 ** height);
    const sibling = node(leaves, (position % 2 ? position - 1 : position + 1) * 2 ** height, height);
    if (sibling === null) continue;
    if (position % 2) index += 2 ** siblings.length;
    siblings.push(sibling);
  }
  return { leafIndex, leaf: hex(leaves[leafIndex]), index, siblings: siblings.map(hex) };
};

const all = Array.from({ length: 33 }, (_, i) => H(drawn("leaf"), BigInt(i)));
const trees = [];
for (const size of [...Array(18).keys(), 33]) {
  const leaves = all.slice(0, size);
  let depth = 0;
  while (2 ** depth < size) depth++;
  trees.push({
    size,
    depth,
    root: hex(size === 0 ? 0n : node(leaves, 0, depth)),
    proofs: leaves.map((_, i) => way(leaves, i, depth)),
  });
}

const version = JSON.parse(
  readFileSync(new URL("../../node/package.json", import.meta.url)),
).dependencies["@aztec/bb.js"];
const file = {
  about: "Poseidon2, notes and LeanIMT as Barretenberg computes them; see make_poseidon2.mjs",
  madeBy: `@aztec/bb.js ${version}`,
  modulus: hex(MODULUS),
  permutations,
  hashes: hashes.map((inputs) => ({ inputs: inputs.map(hex), hash: hex(H(...inputs)) })),
  custodies,
  notes,
  leaves: all.map(hex),
  trees,
};
writeFileSync(new URL("poseidon2.json", import.meta.url), JSON.stringify(file, null, 1) + "\n");
process.exit(0);
