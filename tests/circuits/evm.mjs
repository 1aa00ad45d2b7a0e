// A devnet with a real verifier on it, so that a proof is judged by what will judge it.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const require = createRequire(new URL("../../node/package.json", import.meta.url));
const solc = require("solc");
const { keccak256 } = require("js-sha3");

/** `contract` in the Solidity file text `source`, compiled as the project compiles it: 0x bytecode. */
export function bytecodeOf(contract, source) {
  const output = JSON.parse(solc.compile(JSON.stringify({
    language: "Solidity",
    sources: { "verifier.sol": { content: source } },
    settings: {
      optimizer: { enabled: true, runs: 200 },
      evmVersion: "cancun",
      outputSelection: { "*": { "*": ["evm.bytecode.object"] } },
    },
  })));
  const errors = (output.errors ?? []).filter(({ severity }) => severity === "error");
  if (errors.length) throw new Error(errors.map(({ formattedMessage }) => formattedMessage).join("\n"));
  return `0x${output.contracts["verifier.sol"][contract].evm.bytecode.object}`;
}

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const word = (value) => BigInt(value).toString(16).padStart(64, "0");

/** Calldata of verify(bytes,bytes32[]). */
export function verifyCalldata(proof, publicInputs) {
  const selector = keccak256("verify(bytes,bytes32[])").slice(0, 8);
  const bytes = proof.slice(2);
  const padded = bytes.padEnd(Math.ceil(bytes.length / 64) * 64, "0");
  return `0x${selector}${word(64)}${word(96 + padded.length / 2)}${word(bytes.length / 2)}${padded}${word(publicInputs.length)}${publicInputs.map((input) => word(input)).join("")}`;
}

/** A running anvil. `close()` ends it. */
export class Devnet {
  static async start({ chainId = 31337 } = {}) {
    const anvil = fileURLToPath(new URL("../../node/node_modules/.bin/anvil", import.meta.url));
    const port = await freePort();
    const net = new Devnet();
    net.url = `http://127.0.0.1:${port}`;
    net.child = spawn(anvil, ["--port", String(port), "--chain-id", String(chainId), "--silent"], { stdio: "ignore" });
    for (let tries = 0; ; tries += 1) {
      try {
        await net.rpc("eth_chainId");
        return net;
      } catch (error) {
        if (tries === 200 || net.child.exitCode !== null) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  async rpc(method, ...params) {
    const response = await fetch(this.url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
    const { result, error } = await response.json();
    if (error) throw Object.assign(new Error(error.message), { data: error.data });
    return result;
  }

  /** Deploys `bytecode`; resolves to the address, or throws with the revert. */
  async deploy(bytecode) {
    const [from] = await this.rpc("eth_accounts");
    const hash = await this.rpc("eth_sendTransaction", { from, data: bytecode, gas: "0x1c9c380" });
    let receipt = null;
    while (!receipt) receipt = await this.rpc("eth_getTransactionReceipt", hash);
    const { contractAddress, status } = receipt;
    if (status !== "0x1") throw new Error("the deployment reverted");
    return contractAddress;
  }

  /**
   * Whether the verifier at `to` accepts. It refuses by reverting, or, where a point is off its
   * curve, by a precompile that burns all the gas it was given.
   */
  async verify(to, proof, publicInputs) {
    try {
      return BigInt(await this.rpc("eth_call", { to, data: verifyCalldata(proof, publicInputs) }, "latest")) === 1n;
    } catch (error) {
      if (error.data === undefined && !/OutOfGas/.test(error.message)) throw error;
      return false;
    }
  }

  async close() {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill();
    await ended;
  }
}
