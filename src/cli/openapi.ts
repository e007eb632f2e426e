import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { documentationApp } from "../http/docs/app.ts";
import { openapiDocument, openapiYaml } from "../http/docs/openapi.ts";

/**
 * Writes openapi.yaml from the routes and schemas of the code; with `--check` only compares, and fails if they differ.
 */
const file = fileURLToPath(new URL("../../openapi.yaml", import.meta.url));
const app = await documentationApp();
const fresh = openapiYaml(openapiDocument(app));
await app.close();
if (!process.argv.includes("--check")) {
  writeFileSync(file, fresh);
} else if (readFileSync(file, "utf8") !== fresh) {
  console.error("openapi.yaml differs from the routes and schemas: run npm run openapi");
  process.exitCode = 1;
}
