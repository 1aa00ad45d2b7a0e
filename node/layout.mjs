// Where the circuits' sources are and where what is made from them goes. Build time only: the
// prover, which also runs from an installed wheel, takes its directories from its environment.

import { join } from "node:path";

export const REPO = join(import.meta.dirname, "..");
export const CIRCUITS = ["ctc", "cta"];
export const ARTIFACTS = join(REPO, "python", "psymm", "artifacts", "circuits");
export const VERIFIERS = join(REPO, "contracts", "src", "verifiers");
export const DEV_CRS = join(REPO, "build", "crs", "dev");

/** What the prover needs beside its packages, where nothing else of this repository is. */
export const RUNTIME = ["package.json", "package-lock.json", "prover.mjs", "barretenberg.mjs", "crs.mjs"];
