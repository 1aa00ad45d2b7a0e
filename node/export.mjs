#!/usr/bin/env node
// What of this directory goes into the wheel: the prover's files and the lockfile of its packages,
// to python/psymm/artifacts/node. `npm ci --omit=dev` beside them makes them run.

import { copyFileSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { REPO, RUNTIME } from "./layout.mjs";

const target = join(REPO, "python", "psymm", "artifacts", "node");
mkdirSync(target, { recursive: true });
for (const file of readdirSync(target)) {
  if (!RUNTIME.includes(file) && file !== "node_modules") rmSync(join(target, file), { recursive: true });
}
for (const file of RUNTIME) copyFileSync(join(import.meta.dirname, file), join(target, file));
console.log(`${RUNTIME.length} files of the prover in python/psymm/artifacts/node`);
