#!/usr/bin/env node
// The prover: a resident process that turns witnesses into proofs, one JSON object a line.
//
//   node prover.mjs [--circuits DIR]          or PSYMM_CIRCUITS=DIR; CRS_PATH=DIR as for bb
//
//   out  {"ready":true,"circuits":{"ctc":{…},"cta":{…}},"bb":"5.0.0"}
//   in   {"id":1,"circuit":"ctc","inputs":{…}}
//   out  {"id":1,"proof":"0x…","publicInputs":["0x…",…],"witness_ms":…,"prove_ms":…}
//   out  {"id":1,"error":{"code":"unsatisfied","message":"sum"}}
//
// Codes: bad-input (the request, or an input's shape), unsatisfied (no proof exists for these
// inputs; the message is the broken constraint's name where it has one), no-crs, tool-missing,
// tool-failed (bb died; the next request starts another). Before "ready", an error comes as
// {"ready":false,"error":{…}} and the exit code is 3.
//
// Secrets arrive on stdin and go to bb over a pipe; they are in no file, argument, environment or
// message. Proofs are made one at a time, in the order asked. At the end of stdin what was asked
// is finished, then the process ends with 0.
//
// Needs only noir_js and bb.js, this file, barretenberg.mjs and crs.mjs.

import { existsSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { gunzipSync } from "node:zlib";
import { checkCrs } from "./crs.mjs";

const asProgram = Boolean(process.argv[1]) && import.meta.filename === realpathSync(process.argv[1]);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// Asked for here rather than above, so that a missing package is an answer and not a stack trace.
const [{ Noir }, { EVM, startBarretenberg }] = await Promise.all([
  import("@noir-lang/noir_js"),
  import("./barretenberg.mjs"),
]).catch((error) => {
  if (!asProgram) throw error;
  const message = "its npm packages are missing: run `psymm tools install`, or `make setup` in a checkout";
  say({ ready: false, error: { code: "tool-missing", message } });
  process.exit(3);
});

const MODULUS = 0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001n;
const NAMES = ["ctc", "cta"];

/** A refusal that the other end can act upon; `message` never holds an input's value. */
export class ProverError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const badInput = (message) => new ProverError("bad-input", message);

/** Refuses a `value` that is not of the ABI's `type`; `where` names it, the value stays untold. */
function checkShape(type, value, where) {
  switch (type.kind) {
    case "field":
      if (typeof value !== "string" || !/^0x[0-9a-f]{1,64}$/.test(value)) {
        throw badInput(`${where}: a field element is a lower-case hex string, 0x and up to 64 digits`);
      }
      if (BigInt(value) >= MODULUS) throw badInput(`${where}: not below the field's modulus`);
      return;
    case "integer":
      if (!Number.isInteger(value) || value < 0 || value >= 2 ** type.width) {
        throw badInput(`${where}: an integer of ${type.width} bits`);
      }
      return;
    case "boolean":
      if (typeof value !== "boolean") throw badInput(`${where}: true or false`);
      return;
    case "array":
      if (!Array.isArray(value) || value.length !== type.length) {
        throw badInput(`${where}: a list of ${type.length}`);
      }
      value.forEach((item, i) => checkShape(type.type, item, `${where}[${i}]`));
      return;
    default:
      throw new Error(`the circuit's ABI has a type that this prover does not know: ${type.kind}`);
  }
}

/** One circuit: its program, its key, and what its witness must look like. */
export class Circuit {
  constructor(name, program, verificationKey) {
    this.name = name;
    this.verificationKey = verificationKey;
    this.bytecode = gunzipSync(Buffer.from(program.bytecode, "base64"));
    this.parameters = program.abi.parameters;
    this.noirVersion = program.noir_version;
    this.assertions = new Set(
      Object.values(program.abi.error_types ?? {})
        .filter((type) => type.error_kind === "string")
        .map((type) => type.string),
    );
    this.noir = new Noir(program);
  }

  static load(directory, name) {
    try {
      const program = JSON.parse(readFileSync(join(directory, `${name}.json`), "utf8"));
      return new Circuit(name, program, new Uint8Array(readFileSync(join(directory, `${name}.vk`))));
    } catch (error) {
      throw new ProverError("tool-missing", `circuit ${name} in ${directory}: ${error.message}`);
    }
  }

  get publicNames() {
    return this.parameters.filter((p) => p.visibility === "public").map((p) => p.name);
  }

  check(inputs) {
    if (inputs === null || typeof inputs !== "object" || Array.isArray(inputs)) {
      throw badInput("inputs: an object");
    }
    const known = new Set(this.parameters.map((p) => p.name));
    for (const name of Object.keys(inputs)) {
      if (!known.has(name)) throw badInput(`${this.name} has no input of that name: ${name.slice(0, 40)}`);
    }
    for (const { name, type } of this.parameters) {
      if (!Object.hasOwn(inputs, name)) throw badInput(`${name}: missing`);
      checkShape(type, inputs[name], name);
    }
  }

  /** The name of the broken constraint, of what the solver said; nothing but names fixed in the source. */
  #broken(said) {
    if (/assert_max_bit_size|failed to decompose/.test(said)) {
      return "an amount, a half of the terms' hash or a limb of the digest has more than 128 bits";
    }
    return this.assertions.has(said) ? said : "a signature or key has no valid form";
  }

  /** The witness for `inputs`, in bb's encoding. Raises ProverError bad-input or unsatisfied. */
  async witness(inputs) {
    this.check(inputs);
    try {
      const { witness } = await this.noir.execute(inputs);
      return gunzipSync(witness);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) {
        throw new ProverError("tool-failed", "the witness solver broke down");
      }
      const said = String(error?.message ?? "").replace(/^Circuit execution failed: /, "");
      throw new ProverError("unsatisfied", this.#broken(said));
    }
  }
}

export const hex = (bytes) => `0x${Buffer.from(bytes).toString("hex")}`;

/** Makes proofs of `circuits` (name → Circuit) with one bb, started when first needed. */
export class Prover {
  #bb = null;

  constructor(circuits) {
    this.circuits = circuits;
  }

  /** bb's process id, for who measures it; undefined while none runs. */
  get pid() {
    return this.#bb?.pid;
  }

  /** Starts bb and asks it something small, so that a binary that cannot run here shows at once. */
  async start() {
    await this.#ask((bb) => bb.poseidon2Hash({ inputs: [new Uint8Array(32)] }));
  }

  async prove(name, inputs) {
    const circuit = Object.hasOwn(this.circuits, name) ? this.circuits[name] : null;
    if (!circuit) throw badInput(`circuit: one of ${Object.keys(this.circuits).join(", ")}`);
    const started = performance.now();
    const witness = await circuit.witness(inputs);
    const solved = performance.now();
    const { proof, publicInputs } = await this.#ask((bb) =>
      bb.circuitProve({
        circuit: { name, bytecode: circuit.bytecode, verificationKey: circuit.verificationKey },
        witness,
        settings: EVM,
      }),
    );
    witness.fill(0);
    const shown = publicInputs.map(hex);
    circuit.publicNames.forEach((input, i) => {
      if (BigInt(shown[i]) !== BigInt(inputs[input])) {
        throw new ProverError("tool-failed", `bb's public input ${i} is not ${input}`);
      }
    });
    return {
      proof: hex(Buffer.concat(proof)),
      publicInputs: shown,
      witness_ms: Math.round(solved - started),
      prove_ms: Math.round(performance.now() - solved),
    };
  }

  async close() {
    await this.#bb?.destroy();
    this.#bb = null;
  }

  async #ask(question) {
    this.#bb ??= startBarretenberg();
    try {
      return await question(this.#bb);
    } catch (error) {
      await this.close();
      if (error.code) throw error;
      if (/HTTP request failed|crs/i.test(error.message)) {
        throw new ProverError("no-crs", "the reference string could not be fetched; set CRS_PATH");
      }
      throw new ProverError("tool-failed", `bb refused: ${String(error.message).slice(0, 200)}`);
    }
  }
}

/** The directory with the compiled circuits: the argument, the environment, else beside us. */
function circuitsDirectory(argument) {
  const beside = [
    join(import.meta.dirname, "..", "circuits"),
    join(import.meta.dirname, "..", "python", "psymm", "artifacts", "circuits"),
  ];
  return (
    argument ??
    process.env.PSYMM_CIRCUITS ??
    beside.find((directory) => existsSync(join(directory, "ctc.json"))) ??
    beside[0]
  );
}

/** The reference string that the keys in `directory` were made with: {kind, g2}. */
function reference(directory) {
  try {
    return JSON.parse(readFileSync(join(directory, "reference.json"), "utf8"));
  } catch (error) {
    throw new ProverError("tool-missing", `reference.json in ${directory}: ${error.message}`);
  }
}

const CODES = new Set(["bad-input", "unsatisfied", "no-crs", "tool-missing", "tool-failed"]);

const refusal = (error) =>
  CODES.has(error.code)
    ? { code: error.code, message: error.message }
    : { code: "tool-failed", message: `the prover broke down (${error.name})` };

async function answer(prover, line) {
  let id = null;
  try {
    let request;
    try {
      request = JSON.parse(line);
    } catch {
      throw badInput("not a JSON object");
    }
    if (request === null || typeof request !== "object") throw badInput("not a JSON object");
    id = request.id ?? null;
    if (!Number.isSafeInteger(id) && typeof id !== "string") throw badInput("id: an integer or a string");
    say({ id, ...(await prover.prove(request.circuit, request.inputs)) });
  } catch (error) {
    say({ id, error: refusal(error) });
  }
}

async function main() {
  const { values } = parseArgs({ options: { circuits: { type: "string" } } });
  // The other end is gone: nobody is left to prove for.
  process.stdout.on("error", () => process.exit(1));
  let prover;
  try {
    const directory = circuitsDirectory(values.circuits);
    const circuits = Object.fromEntries(NAMES.map((name) => [name, Circuit.load(directory, name)]));
    checkCrs(reference(directory));
    prover = new Prover(circuits);
    await prover.start();
  } catch (error) {
    say({ ready: false, error: refusal(error) });
    process.exitCode = 3;
    return;
  }
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.on(signal, () => prover.close().then(() => process.exit(128 + (signal === "SIGINT" ? 2 : 15))));
  }
  const manifest = new URL("../../package.json", import.meta.resolve("@aztec/bb.js"));
  const { version } = JSON.parse(readFileSync(manifest, "utf8"));
  say({ ready: true, circuits: NAMES, bb: version });

  let last = Promise.resolve();
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim()) last = last.then(() => answer(prover, line));
  }
  await last;
  await prover.close();
}

if (asProgram) await main();
