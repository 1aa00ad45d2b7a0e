// The parts of Noir's JavaScript that live in node/node_modules, for tests that stand outside it.

import { createRequire } from "node:module";

/** The package `name` as node/package-lock.json pins it. */
export const load = createRequire(new URL("../../node/package.json", import.meta.url));
