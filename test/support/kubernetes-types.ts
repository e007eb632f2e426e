/**
 * Whether objects are what Kubernetes, KEDA and the Prometheus operator take. TypeScript checks them against types made
 * from the OpenAPI description and the CRDs: an unknown field, a missing one or one of another type is an error.
 */
import ts from "typescript";
import { KUBERNETES_TOOLS } from "./requirements.ts";

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
}

/** Packages of groups that are not Kubernetes' own. */
const PACKAGES: Readonly<Record<string, string>> = {
  "keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

/** What is wrong with each object; [] of those that are right. One type check, which takes seconds, for all. */
export function typeErrors(objects: readonly KubernetesObject[]): string[][] {
  // A line each: a literal, of which TypeScript refuses what its type does not have.
  const text = objects
    .map((object, index) => `export const o${index}: ${typeOf(object)} = ${JSON.stringify(object)};`)
    .join("\n");
  const file = `${KUBERNETES_TOOLS}/objects.ts`;
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    types: [],
  };
  const disk = ts.createCompilerHost(options);
  const host: ts.CompilerHost = {
    ...disk,
    fileExists: (path) => path === file || disk.fileExists(path),
    getSourceFile: (path, version, ...rest) =>
      path === file ? ts.createSourceFile(path, text, version) : disk.getSourceFile(path, version, ...rest),
  };
  const program = ts.createProgram([file], options, host);
  const source = program.getSourceFile(file)!;
  const errors: string[][] = objects.map(() => []);
  for (const { start, messageText } of program.getSemanticDiagnostics(source)) {
    const { line } = ts.getLineAndCharacterOfPosition(source, start!);
    errors[line]!.push(ts.flattenDiagnosticMessageText(messageText, "\n"));
  }
  return errors;
}

function typeOf({ apiVersion, kind }: KubernetesObject): string {
  const module = `${PACKAGES[apiVersion.split("/")[0]!] ?? "kubernetes-models"}/${apiVersion}/${kind}`;
  return `import(${JSON.stringify(module)}).I${kind}`;
}
