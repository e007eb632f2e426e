import { createHash, randomBytes } from "node:crypto";
import { createWriteStream } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ListFileEntry } from "@huggingface/hub";
import { ModelLoadError } from "../errors.ts";
import { parseHubId, type HubId } from "../formats/hub-id.ts";

export interface HubOptions {
  /** Downloads go to `<cacheDir>/hub/<org>--<name>/<commit>`. */
  readonly cacheDir: string;
  /** Default: the environment's HF_ENDPOINT, else https://huggingface.co. */
  readonly hubUrl?: string;
  /** Default: the environment's HF_TOKEN. */
  readonly token?: string;
  /** Called once per file before its download. */
  readonly onFile?: (name: string, bytes: number) => void;
}

interface Source {
  readonly repo: { readonly type: "model"; readonly name: string };
  readonly hubUrl: string;
  readonly accessToken?: string;
}

/** What to download of a repository. */
interface Wanted {
  /** A folder in the repository; null: its root. */
  readonly subfolder: string | null;
  /** Chooses among the folder's files. Throws ModelLoadError if some are missing. */
  readonly pick: (files: readonly ListFileEntry[]) => ListFileEntry[];
  readonly onFile?: HubOptions["onFile"];
}

/** Loaded on demand: most models are in a folder. */
const library = () => import("@huggingface/hub");

const COMMIT = /^[0-9a-f]{40}$/;
const WEIGHTS = "model.safetensors";
const SHARD = /^model-\d+-of-\d+\.safetensors$/;
/** What PEFT's save_pretrained writes. */
const ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"];
const SIDE_FILES = new Set([
  "config.json",
  "generation_config.json",
  "model.safetensors.index.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
]);

/**
 * The folder of a model: `model` itself if it is a folder, else the Hugging Face id `org/name[@revision]`, downloaded
 * unless present. Branches are looked up at each start; without a network, the last known commit is served. The folder
 * gets its final name only when all files are complete. Throws ModelLoadError.
 */
export async function resolveModel(model: string, options: HubOptions): Promise<string> {
  if (await isDirectory(model)) return model;
  const id = parseHubId(model);
  if (id === null) {
    throw new ModelLoadError(
      "model_not_found",
      `model "${model}" is neither a folder nor a Hugging Face id such as openai-community/gpt2`,
    );
  }
  const start = `model "${model}" is not a folder here, and downloading it`;
  const { name } = id;
  const folder = join(options.cacheDir, "hub", name.replace("/", "--"));
  const pick = (files: readonly ListFileEntry[]): ListFileEntry[] => neededFiles(name, files);
  try {
    return await downloaded(sourceOf(name, options), id.revision, folder, { ...options, subfolder: null, pick });
  } catch (error) {
    throw error instanceof ModelLoadError ? error : await explain(error, start, sourceOf(name, options));
  }
}

/**
 * The folder of a PEFT adapter `org/name[@revision]` on the hub, or in a folder of that repository: PEFT's two files,
 * downloaded to `<cacheDir>/hub-adapters` unless present. Throws ModelLoadError.
 */
export async function resolveAdapter(
  { name, revision }: HubId,
  { subfolder = null, ...options }: HubOptions & { readonly subfolder?: string | null },
): Promise<string> {
  const what = `hf:${name}${revision === null ? "" : `@${revision}`}${subfolder === null ? "" : `, folder ${subfolder}`}`;
  // An id's slash and a folder's may not be confused.
  const folder = join(options.cacheDir, "hub-adapters", [name, subfolder ?? ""].map(encodeURIComponent).join("--"));
  const pick = (files: readonly ListFileEntry[]): ListFileEntry[] => adapterFiles(what, files);
  try {
    return await downloaded(sourceOf(name, options), revision, folder, { ...options, subfolder, pick });
  } catch (error) {
    throw error instanceof ModelLoadError
      ? error
      : await explain(error, `downloading ${what}`, sourceOf(name, options));
  }
}

function sourceOf(name: string, options: HubOptions): Source {
  const accessToken = options.token ?? process.env["HF_TOKEN"];
  return {
    repo: { type: "model", name },
    hubUrl: (options.hubUrl ?? process.env["HF_ENDPOINT"] ?? "https://huggingface.co").replace(/\/+$/, ""),
    ...(accessToken ? { accessToken } : {}),
  };
}

/** The folder of a revision's files, in `folder`. */
async function downloaded(source: Source, revision: string | null, folder: string, wanted: Wanted): Promise<string> {
  const commit = await findCommit(source, revision ?? "main", folder);
  const target = join(folder, commit);
  if (await isDirectory(target)) return target;
  const partial = `${target}.partial`;
  try {
    await download(source, commit, partial, wanted);
    await rename(partial, target);
  } catch (error) {
    // Another process may have finished the same download first.
    if (!(await isDirectory(target))) throw error;
    await rm(partial, { recursive: true, force: true });
    return target;
  }
  // Leftovers of killed processes, and what another one has begun meanwhile.
  for (const name of await readdir(target)) if (name.endsWith(".tmp")) await rm(join(target, name), { force: true });
  return target;
}

/** The commit `revision` currently names, or the last known one if the hub cannot be reached. */
async function findCommit({ repo, ...source }: Source, revision: string, folder: string): Promise<string> {
  if (COMMIT.test(revision)) return revision;
  const ref = join(folder, `ref-${encodeURIComponent(revision)}`);
  const { HubApiError, modelInfo } = await library();
  try {
    const { sha } = await modelInfo({ name: repo.name, revision, additionalFields: ["sha"], ...source });
    if (!COMMIT.test(sha)) throw new Error(`the hub names no commit for revision "${revision}"`);
    await mkdir(folder, { recursive: true });
    await writeFile(ref, sha);
    return sha;
  } catch (error) {
    if (error instanceof HubApiError && error.statusCode < 500) throw error;
    const known = await readFile(ref, "utf8").catch(() => "");
    if (COMMIT.test(known) && (await isDirectory(join(folder, known)))) return known;
    throw error;
  }
}

/** Downloads into `partial`, where a later start resumes. */
async function download(source: Source, commit: string, partial: string, wanted: Wanted): Promise<void> {
  const { subfolder, pick, onFile } = wanted;
  const { listFiles } = await library();
  const files: ListFileEntry[] = [];
  for await (const file of listFiles({
    ...source,
    revision: commit,
    ...(subfolder === null ? {} : { path: subfolder }),
  })) {
    if (file.type === "file") files.push(file);
  }
  await mkdir(partial, { recursive: true });
  for (const file of pick(files)) {
    const path = join(partial, basename(file.path));
    // Only complete files are renamed to their final name.
    if ((await stat(path).catch(() => null))?.size === file.size) continue;
    onFile?.(file.path, file.size);
    await fetchFile(source, commit, file, path);
  }
}

function neededFiles(name: string, files: readonly ListFileEntry[]): ListFileEntry[] {
  const single = files.some((file) => file.path === WEIGHTS);
  const weights = files.filter((file) => (single ? file.path === WEIGHTS : SHARD.test(file.path)));
  if (weights.length === 0) {
    const pickled = files.some((file) => file.path.endsWith(".bin"));
    throw new ModelLoadError(
      "model_unsupported",
      pickled
        ? `${name} only has pickled weights (.bin), which are never read: save it as safetensors with transformers' save_pretrained(..., safe_serialization=True)`
        : `${name} has no ${WEIGHTS}`,
    );
  }
  return [...files.filter((file) => SIDE_FILES.has(file.path)), ...weights];
}

function adapterFiles(what: string, files: readonly ListFileEntry[]): ListFileEntry[] {
  const found = ADAPTER_FILES.flatMap((name) => files.filter(({ path }) => basename(path) === name));
  if (found.length === ADAPTER_FILES.length) return found;
  const pickled = files.some(({ path }) => basename(path) === "adapter_model.bin");
  throw new ModelLoadError(
    "model_unsupported",
    pickled
      ? `${what} has its weights pickled (adapter_model.bin), which are never read: save them with PEFT's save_pretrained(..., safe_serialization=True)`
      : `${what} is not a PEFT adapter: it lacks ${ADAPTER_FILES.filter((name) => !found.some(({ path }) => basename(path) === name)).join(" and ")}`,
  );
}

async function fetchFile(source: Source, commit: string, file: ListFileEntry, path: string): Promise<void> {
  // Plain HTTPS: xet would need a second service and keeps large files in memory.
  const { downloadFile } = await library();
  const blob = await downloadFile({ ...source, path: file.path, revision: commit, xet: false });
  if (blob === null) throw new Error(`${file.path} is listed but absent`);
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const hash = createHash("sha256");
  let bytes = 0;
  try {
    await pipeline(
      Readable.fromWeb(blob.stream()),
      async function* (chunks: AsyncIterable<Uint8Array>) {
        for await (const chunk of chunks) {
          hash.update(chunk);
          bytes += chunk.byteLength;
          yield chunk;
        }
      },
      createWriteStream(temporary, { flags: "wx" }),
    );
    const wanted = file.lfs?.oid.replace(/^sha256:/, "");
    if (bytes !== file.size) throw new Error(`${file.path} was downloaded with ${bytes} bytes instead of ${file.size}`);
    if (wanted !== undefined && hash.digest("hex") !== wanted)
      throw new Error(`${file.path} was damaged on the way: its sha256 differs`);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** `what`: the beginning of a sentence, about a download. */
async function explain(error: unknown, what: string, { hubUrl, accessToken }: Source): Promise<ModelLoadError> {
  const { HubApiError } = await library();
  const start = `${what} from ${hubUrl} failed: `;
  if (error instanceof HubApiError && [401, 403, 404].includes(error.statusCode)) {
    const hint = accessToken ? "the token may lack access" : "if it is private or gated, set HF_TOKEN";
    return new ModelLoadError(
      "model_not_found",
      `${start}no such repository, folder or revision (${error.statusCode}); ${hint}`,
      {
        cause: error,
      },
    );
  }
  const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : "";
  const text = `${error instanceof Error ? error.message : String(error)}${cause}`;
  return new ModelLoadError(
    "model_not_found",
    `${start}${text}. Without a network, give the path of a downloaded folder`,
    { cause: error },
  );
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}
