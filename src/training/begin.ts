/** From a request to a learner with its first values. */
import { TrainingError } from "../errors.ts";
import type { Checkpoint } from "../model/checkpoint.ts";
import type { TrainModel } from "../model/train-model.ts";
import { readAdapterFolder } from "../prefixes/folder.ts";
import { parsePeftAdapter } from "../prefixes/peft.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { Descent } from "./descent.ts";
import { setInitial, type Initial } from "./initial.ts";
import type { Learner } from "./learner.ts";
import type { TrainingOptions } from "./options.ts";
import { rawValues, throughNetwork } from "./parametrisation.ts";
import { TriggerSearch } from "./triggers/search.ts";
import type { TriggerVocabulary } from "./triggers/vocabulary.ts";

export interface InitialRequest {
  readonly initial:
    | { readonly kind: "random" | "normal" }
    | { readonly kind: "text"; readonly text: string }
    | { readonly kind: "folder"; readonly dir: string };
}

/** What can only be done with the model. @throws TrainingError `options_invalid`, OrtError */
export type Begin = (model: TrainModel, options: TrainingOptions) => Promise<Learner>;

/**
 * Reads and checks what the learner begins with, before the model is opened.
 * @param isNew false: the values will be restored from a state, so they need no beginning
 * @throws TrainingError `options_invalid`, PrefixdError (the adapter to begin with)
 */
export async function beginOf(
  request: InitialRequest,
  isNew: boolean,
  {
    checkpoint,
    tokenizer,
    vocabulary,
  }: { checkpoint: Checkpoint; tokenizer: Tokenizer; vocabulary: TriggerVocabulary | null },
  length: number,
  onFit?: (error: number) => void,
): Promise<Begin> {
  if (vocabulary !== null) {
    const ids = isNew ? firstTriggers(request, vocabulary, length) : null;
    return async (model, { candidates }) => {
      const search = new TriggerSearch(model, vocabulary, candidates!);
      if (ids !== null) await search.begin(ids);
      return search;
    };
  }
  const initial = isNew ? await readInitial(request, checkpoint, tokenizer) : null;
  return async (model, options) => {
    const parametrisation = model.network === null ? rawValues(model.step) : throughNetwork(model.network);
    if (initial !== null) await setInitial(model, parametrisation, initial, options.seed, onFit);
    return new Descent(model.step, parametrisation, options);
  };
}

function firstTriggers({ initial }: InitialRequest, vocabulary: TriggerVocabulary, length: number): readonly number[] {
  if (initial.kind === "folder" || initial.kind === "normal")
    throw new TrainingError("options_invalid", "A search for triggers begins with a text, not with values.");
  return vocabulary.initial(initial.kind === "text" ? initial.text : null, length);
}

async function readInitial(
  { initial }: InitialRequest,
  { shape, fingerprint }: Checkpoint,
  tokenizer: Tokenizer,
): Promise<Initial> {
  switch (initial.kind) {
    case "random":
    case "normal":
      return { kind: initial.kind };
    case "text": {
      const ids = tokenizer.encode(initial.text);
      if (ids.length === 0 || ids.some((id) => id >= shape.vocabSize))
        throw new TrainingError("options_invalid", "The initial text has no tokens, or one without an embedding.");
      return { kind: "tokens", ids };
    }
    case "folder": {
      const { config, weights } = await readAdapterFolder(initial.dir);
      const adapter = parsePeftAdapter(config, weights, shape, fingerprint);
      return "kv" in adapter ? { kind: "kv", kv: adapter.kv } : { kind: "fold", fold: adapter.fold };
    }
  }
}
