/** Parses Dockerfiles and .dockerignore, as far as ours use them. */

export interface Instruction {
  /** Line number of its first line, from 1. */
  readonly line: number;
  /** In capitals, such as `COPY`. */
  readonly name: string;
  /** The rest, continued lines joined. */
  readonly text: string;
}

export interface Stage {
  /** Of `FROM ... AS name`; the last one's is "". */
  readonly name: string;
  readonly base: string;
  readonly instructions: readonly Instruction[];
}

export interface Copy {
  /** Stage named by `--from`; null: the build context. */
  readonly from: string | null;
  readonly sources: readonly string[];
  readonly target: string;
}

/** @throws if a line is not an instruction, or one precedes the first FROM. */
export function parseStages(dockerfile: string): Stage[] {
  const stages: (Stage & { instructions: Instruction[] })[] = [];
  for (const instruction of parseInstructions(dockerfile)) {
    if (instruction.name === "FROM") {
      const match = /^(\S+)(?: AS (\S+))?$/i.exec(instruction.text);
      if (!match) throw new Error(`line ${instruction.line}: FROM ${instruction.text}`);
      stages.push({ base: match[1]!, name: match[2] ?? "", instructions: [] });
    } else if (stages.length === 0) {
      throw new Error(`line ${instruction.line}: ${instruction.name} before FROM`);
    } else {
      stages.at(-1)!.instructions.push(instruction);
    }
  }
  return stages;
}

function parseInstructions(dockerfile: string): Instruction[] {
  const instructions: Instruction[] = [];
  let open: { line: number; text: string } | null = null;
  for (const [index, line] of dockerfile.split("\n").entries()) {
    if (/^\s*(#|$)/.test(line)) continue;
    const text: string = (open === null ? "" : open.text + " ") + line.trim().replace(/\s*\\$/, "");
    const start: number = open?.line ?? index + 1;
    if (/\\$/.test(line)) {
      open = { line: start, text };
      continue;
    }
    open = null;
    const match = /^([A-Za-z]+)\s+(.+)$/.exec(text);
    if (!match) throw new Error(`line ${start}: no instruction: ${text}`);
    instructions.push({ line: start, name: match[1]!.toUpperCase(), text: match[2]! });
  }
  if (open !== null) throw new Error(`line ${open.line}: the last line is continued`);
  return instructions;
}

export function parseCopy({ text, line }: Instruction): Copy {
  const words = text.split(/\s+/);
  const flags = words.filter((word) => word.startsWith("--"));
  const from = flags.map((flag) => /^--from=(.+)$/.exec(flag)?.[1]);
  const paths = words.filter((word) => !word.startsWith("--"));
  if (from.includes(undefined) || flags.length > 1 || paths.length < 2) throw new Error(`line ${line}: COPY ${text}`);
  return { from: from[0] ?? null, sources: paths.slice(0, -1), target: paths.at(-1)! };
}

/** `ENV A=1 B="2 3"` as pairs. */
export function parsePairs({ text }: Instruction): [string, string][] {
  return [...text.matchAll(/([\w.]+)=("[^"]*"|\S*)/g)].map(([, name, value]) => [
    name!,
    value!.replace(/^"(.*)"$/, "$1"),
  ]);
}

/** The JSON array of an instruction in exec form, such as `ENTRYPOINT ["node"]`. @throws for the shell form. */
export function parseExec(text: string): string[] {
  return JSON.parse(text) as string[];
}

/** Flags of an instruction, `--interval=10s` as `interval` → `10s`, and what follows them. */
export function splitOptions(text: string): { options: Map<string, string>; rest: string } {
  const match = /^((?:--\S+\s+)*)(.*)$/s.exec(text)!;
  const options = new Map([...match[1]!.matchAll(/--([\w-]+)=(\S+)/g)].map(([, name, value]) => [name!, value!]));
  return { options, rest: match[2]! };
}

/**
 * Whether a path is excluded from the build context. The last pattern that covers it decides; patterns are `*` or plain
 * paths, each with or without `!`. @throws for other wildcards, which Docker supports and this does not.
 */
export function isIgnored(dockerignore: string, path: string): boolean {
  let ignored = false;
  for (const line of dockerignore.split("\n").map((text) => text.trim())) {
    if (line === "" || line.startsWith("#")) continue;
    const pattern = line.replace(/^!/, "");
    if (pattern !== "*" && /[*?[\]]/.test(pattern)) throw new Error(`.dockerignore: ${line}`);
    if (pattern === "*" || path === pattern || path.startsWith(`${pattern}/`)) ignored = !line.startsWith("!");
  }
  return ignored;
}
