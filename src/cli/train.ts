import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join, relative } from "node:path";
import { Progress } from "../load/progress.ts";
import { oneLine } from "../one-line.ts";
import { checkPrefixName } from "../prefixes/name.ts";
import { PROMPT_FILE } from "../prefixes/hard-prompt.ts";
import { CONFIG_FILE, WEIGHTS_FILE } from "../prefixes/peft.ts";
import { Runtime } from "../runtime/session.ts";
import { Job, type TrainRequest } from "../training/job.ts";
import { runTraining } from "../training/run.ts";
import { readStateHead, restoreState, saveState } from "../training/state.ts";
import { shownTriggers } from "../training/triggers/vocabulary.ts";
import { CommandError } from "./command-error.ts";
import { callJson } from "./http-client.ts";
import { checkCache, checkFolderReadable, checkFolderWritable, checkReadable } from "./files.ts";
import { pushFolder, registered } from "./push.ts";
import { onStopSignals } from "./signals.ts";
import { userKey } from "./arguments.ts";
import { readTrainFlags, USAGE, type TrainCommand } from "./train-flags.ts";
import { TrainReport } from "./train-report.ts";
import { checkFolder, writeFolder } from "./whole-folder.ts";

/** In the adapter's folder, while it is trained. */
const STATE_FILE = "training.state";
/** Of any kind. */
const RESULT_FILES = [CONFIG_FILE, WEIGHTS_FILE, PROMPT_FILE];
const INTERRUPTED = 130;

/** `prefixd train`: trains in this process; the adapter's folder on stdout, all else on stderr. */
export async function train(args: readonly string[]): Promise<void> {
  const command = readTrainFlags(args);
  if (command === "help") return void process.stdout.write(USAGE);
  const interrupted = new AbortController();
  const forget = onStopSignals(
    () => interrupted.abort(),
    () => process.exit(INTERRUPTED),
  );
  try {
    await run(command, interrupted.signal);
  } finally {
    forget();
  }
}

async function run(command: TrainCommand, signal: AbortSignal): Promise<void> {
  const { out, id, url, keyFile, force } = command;
  const state = join(out, STATE_FILE);
  const request = command.request ?? (await requestToResume(state));
  if (id !== null) checkPrefixName(id);
  checkReadable("--data", request.data);
  checkReadable("--eval", request.evalData);
  if (request.initial.kind === "folder") checkFolderReadable("--init-from", request.initial.dir);
  checkFolderWritable("--out", out);
  checkCache(request);
  if (command.request !== null) checkNew(out, state, force);
  using runtime = new Runtime();
  const report = new TrainReport(new Progress(process.stderr.isTTY));
  await using job = await Job.open(runtime, request, command.request !== null, report.events);
  const { training, origin } = job;
  if (command.request === null) await restoreState(state, training, origin);
  if (id !== null) await checkServer(url, userKey(keyFile), origin.fingerprint);
  await mkdir(out, { recursive: true });
  if (command.request !== null) await rm(state, { force: true });

  report.begin(training, job.counts);
  const outcome = await runTraining(training, {
    signal,
    save: () => saveState(state, training, origin, { request }),
    onUpdate: (update) => report.update(update),
    onEvaluation: (evaluation) => report.evaluation(evaluation, job.triggers()),
  }).finally(() => report.end());
  if (outcome === "interrupted") {
    process.exitCode = INTERRUPTED;
    return report.say(
      existsSync(state)
        ? `stopped at step ${training.progress.step}; continue with: prefixd train --resume --out ${shown(out)}`
        : "stopped before the first step",
    );
  }
  const files = job.files();
  writeFolder(out, files, true);
  // Those of another kind, with --force.
  for (const name of RESULT_FILES) if (!files.has(name)) await rm(join(out, name), { force: true });
  await rm(state, { force: true });
  const triggers = job.triggers();
  if (triggers !== null) report.say(shownTriggers(triggers));
  console.log(out);
  if (id !== null) console.log(registered((await pushFolder(out, id, url, userKey(keyFile))).value));
  else report.say(`use it: prefixd push ${shown(out)} --id NAME`);
}

function checkNew(out: string, state: string, force: boolean): void {
  if (!force && existsSync(state))
    throw new CommandError(
      `${shown(out)} has an unfinished training: give --resume to continue, or --force to start over`,
    );
  checkFolder(out, RESULT_FILES, force);
}

async function requestToResume(state: string): Promise<TrainRequest> {
  if (!existsSync(state)) throw new CommandError(`${shown(state)}: there is nothing to resume`);
  return (await readStateHead(state)).note["request"] as TrainRequest;
}

/** Before hours of work: a server of another model would refuse the result. */
async function checkServer(url: string | undefined, key: string | undefined, fingerprint: string): Promise<void> {
  const { value } = await callJson<{ fingerprint: string; model: string }>(url, "/model", {}, key);
  if (value.fingerprint !== fingerprint)
    throw new CommandError(
      `the server runs another model (${oneLine(value.model)}): give its model to --model, or leave out --id and use --out`,
    );
}

const shown = (path: string): string => relative("", path) || ".";
