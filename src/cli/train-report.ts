import { counted } from "../counted.ts";
import { oneLine } from "../one-line.ts";
import type { Progress } from "../load/progress.ts";
import type { JobEvents } from "../training/job.ts";
import { shownTriggers, type Triggers } from "../training/triggers/vocabulary.ts";
import type { Evaluation, Training, Update } from "../training/training.ts";

/** Weight of the newest step in the running means of loss and speed. */
const NEWEST = 0.1;
/** Lines about the loss, where nothing is evaluated. */
const LOSS_LINES = 10;

/** What `prefixd train` says on stderr. */
export class TrainReport {
  readonly #progress: Progress;
  #training: Training | null = null;
  #isEvaluated = false;
  #loss = NaN;
  #secondsPerStep = NaN;
  #tokensPerStep = NaN;
  #lastUpdate = 0;

  readonly events: JobEvents = {
    onFile: (name, bytes) => this.say(`downloading ${name} (${counted(bytes, "byte")})`),
    onBadLine: (path, line, reason) => this.say(oneLine(`${path}: line ${line} is left out: ${reason}`)),
    onFit: (error) => this.say(`the network begins as the given prefix, to ${error.toPrecision(2)}`),
  };

  constructor(progress: Progress) {
    this.#progress = progress;
  }

  readonly say = (text: string): void => this.#progress.phase(text);

  begin(training: Training, { train, held }: { readonly train: number; readonly held: number }): void {
    const { steps, batchSize, kind, virtualTokens, hidden } = training.options;
    const what =
      kind === "triggers"
        ? `searching for ${counted(virtualTokens, "token")}`
        : `training a ${kind} of ${counted(virtualTokens, "virtual token")}${hidden === null ? "" : ` through a network of ${hidden}`}`;
    const { step } = training.progress;
    this.#training = training;
    this.#isEvaluated = held > 0;
    this.#lastUpdate = performance.now();
    this.say(
      `${what} on ${counted(train, "example")}: ${counted(steps, "step")} of ${batchSize}` +
        (held === 0
          ? "; nothing is held out, so the last values are kept"
          : `, evaluated on ${counted(held, "other")}`) +
        (step === 0 ? "" : `; going on after step ${step}`),
    );
  }

  update({ step, loss, tokens }: Update): void {
    const now = performance.now();
    this.#loss = smoothed(this.#loss, loss);
    this.#secondsPerStep = smoothed(this.#secondsPerStep, (now - this.#lastUpdate) / 1000);
    this.#tokensPerStep = smoothed(this.#tokensPerStep, tokens);
    this.#lastUpdate = now;
    const { steps } = this.#training!.options;
    this.#progress.update(step, steps, this.#state(step));
    if (!this.#isEvaluated && step % Math.ceil(steps / LOSS_LINES) === 0) this.say(this.#state(step));
  }

  /** @param triggers those of the best evaluation; null: another kind is trained */
  evaluation({ step, loss, accuracy, exact }: Evaluation, triggers: Triggers | null): void {
    const isBest = this.#training!.progress.best?.step === step;
    this.say(
      `${this.#state(step)}; held out: loss ${loss.toFixed(4)}, ${percent(accuracy)} of tokens and ${percent(exact)} of answers right` +
        (isBest ? "" : " (an earlier one was better)"),
    );
    if (triggers !== null) this.say(shownTriggers(triggers));
    this.#lastUpdate = performance.now();
  }

  end(): void {
    this.#progress.stop();
  }

  #state(step: number): string {
    const { steps } = this.#training!.options;
    if (Number.isNaN(this.#loss)) return `step ${step}/${steps}`;
    const speed = Math.round(this.#tokensPerStep / this.#secondsPerStep);
    return `step ${step}/${steps}, loss ${this.#loss.toFixed(4)}, ${speed} tokens/s, ${duration((steps - step) * this.#secondsPerStep)} left`;
  }
}

const smoothed = (mean: number, newest: number): number =>
  Number.isNaN(mean) ? newest : mean + NEWEST * (newest - mean);

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (value: number): string => String(value).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
