import cliProgress, { type SingleBar } from "cli-progress";

/** Progress on stderr: a bar on a terminal, else one line per phase. */
export class Progress {
  readonly #terminal: boolean;
  #bar: SingleBar | null = null;

  constructor(terminal: boolean) {
    this.#terminal = terminal;
  }

  readonly phase = (text: string): void => {
    this.stop();
    process.stderr.write(`${text}\n`);
  };

  readonly update = (done: number, total: number, text: string): void => {
    if (!this.#terminal) return;
    if (this.#bar === null) {
      this.#bar = new cliProgress.SingleBar(
        {
          format: "{bar} {percentage}% | {text}",
          stream: process.stderr,
          hideCursor: true,
          clearOnComplete: true,
          fps: 8,
          barsize: 24,
        },
        cliProgress.Presets.shades_classic,
      );
      this.#bar.start(total, done, { text });
    }
    this.#bar.update(done, { text });
  };

  stop(): void {
    this.#bar?.stop();
    this.#bar = null;
  }
}
