// Barretenberg's native prover behind a pipe.
//
// bb.js would start the same binary behind a socket file in the shared temporary directory; a pipe
// has no name, so nobody else on the machine can reach it and no witness ever touches a disk.
// Messages are msgpack behind a 4-byte little-endian length, one answer a question, in order.

import { spawn } from "node:child_process";
import { Barretenberg } from "@aztec/bb.js";
import { findBbBinary } from "@aztec/bb.js/platform";

/** The prover's binary is missing, or died. `code` is "tool-missing" or "tool-failed". */
export class ToolError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** UltraHonk for the EVM: zero-knowledge, keccak transcript. The one flavour of this project. */
export const EVM = Object.freeze({
  ipaAccumulation: false,
  oracleHashType: "keccak",
  disableZk: false,
  optimizedSolidityVerifier: true,
});

class Pipe {
  #child;
  #waiting = [];
  #chunks = [];
  #held = 0;
  #failure = null;

  constructor(binary, env) {
    // What bb has to say comes as an answer; its log is dropped.
    this.#child = spawn(binary, ["msgpack", "run"], { stdio: ["pipe", "pipe", "ignore"], env });
    this.#child.stdout.on("data", (chunk) => this.#receive(chunk));
    this.#child.stdin.on("error", (error) => this.#fail(`bb closed its input (${error.code})`));
    this.#child.on("error", (error) => this.#fail(`bb did not start (${error.code})`));
    this.#child.on("exit", (code, signal) => this.#fail(`bb ended (${signal ?? `exit code ${code}`})`));
  }

  get pid() {
    return this.#child.pid;
  }

  call(request) {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#waiting.push({ resolve, reject });
      const length = Buffer.alloc(4);
      length.writeUInt32LE(request.length);
      this.#child.stdin.write(length);
      this.#child.stdin.write(request);
    });
  }

  async destroy() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill();
    await ended;
  }

  #receive(chunk) {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    while (this.#held >= 4) {
      const bytes = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
      const end = 4 + bytes.readUInt32LE(0);
      this.#chunks = [bytes];
      if (this.#held < end) return;
      this.#chunks = [bytes.subarray(end)];
      this.#held -= end;
      this.#waiting.shift()?.resolve(new Uint8Array(bytes.subarray(4, end)));
    }
  }

  #fail(message) {
    this.#failure ??= new ToolError("tool-failed", message);
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}

/**
 * A running prover with the whole bb API (`destroy()` ends it). `threads` defaults to the
 * machine's; `crs` is the directory of the reference string, default CRS_PATH.
 */
export function startBarretenberg({ threads, crs } = {}) {
  const binary = findBbBinary();
  if (!binary) {
    throw new ToolError("tool-missing", "bb is missing for this machine: run `psymm tools install`, or `make setup` in a checkout");
  }
  const env = { ...process.env };
  if (threads) env.HARDWARE_CONCURRENCY = String(threads);
  if (crs) env.CRS_PATH = crs;
  const pipe = new Pipe(binary, env);
  const api = new Barretenberg(pipe, {});
  api.pid = pipe.pid;
  return api;
}
