#!/usr/bin/env node
// Poseidon2 by Barretenberg's native binary, for `make bench`: one answer a line of standard input.
//
//   absorb SEED N    one call that hashes 3·N numbers, which is N permutations
//   pairs SEED N     N calls that hash two numbers each
//
// The answer is "NANOSECONDS HASH": how long the calls took, seen from here, and the last hash. The
// numbers are SEED·2^32 + i. Barretenberg has no call for many hashes, so the first form is the one
// in which its permutation weighs most and its pipe least.

import { createInterface } from "node:readline";
import { startBarretenberg } from "./barretenberg.mjs";

const bb = startBarretenberg({ threads: 1 });

function numbers(seed, count) {
  return Array.from({ length: count }, (_, i) => {
    const bytes = Buffer.alloc(32);
    bytes.writeUInt32BE(seed, 24);
    bytes.writeUInt32BE(i, 28);
    return new Uint8Array(bytes);
  });
}

async function answer(form, seed, count) {
  const inputs = numbers(seed, form === "absorb" ? 3 * count : 2 * count);
  const calls = form === "absorb" ? [inputs] : Array.from({ length: count }, (_, i) => inputs.slice(2 * i, 2 * i + 2));
  const began = process.hrtime.bigint();
  let last;
  for (const call of calls) last = await bb.poseidon2Hash({ inputs: call });
  const took = process.hrtime.bigint() - began;
  return `${took} ${Buffer.from(last.hash).toString("hex")}`;
}

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const [form, seed, count] = line.split(" ");
    process.stdout.write(`${await answer(form, Number(seed), Number(count))}\n`);
  }
} finally {
  await bb.destroy();
}
