import { Dialog, Field, Segments } from "../ui.tsx";
import type { Comparison } from "./comparison.ts";
import { DEFAULTS, type Settings } from "./settings.ts";

export function SettingsDialog({ comparison, onClose }: { comparison: Comparison; onClose: () => void }) {
  const { settings, session } = comparison;
  const set = (change: Partial<Settings>): void => comparison.changeSettings(change);
  const number = (field: keyof Settings, label: string, step: string, more: object = {}) => (
    <Field
      label={label}
      type="number"
      step={step}
      value={settings[field]}
      onValue={(value) => set({ [field]: value })}
      {...more}
    />
  );
  return (
    <Dialog
      side
      title="Settings for every column"
      onClose={onClose}
      foot={
        <>
          <button type="button" class="btn quiet" onClick={() => comparison.changeSettings(DEFAULTS)}>
            Back to defaults
          </button>
          <button type="button" class="btn main" onClick={onClose}>
            Done
          </button>
        </>
      }
    >
      {number("newTokens", "New tokens, at most", "1", {
        min: "1",
        focus: true,
        hint: `Prefix, prompt and new tokens share ${session.model.n_positions + 1} positions.`,
      })}
      <Segments
        label="Next token"
        options={{ greedy: "Likeliest", draw: "Draw", beams: "Beam search" }}
        value={settings.how}
        onValue={(how) => set({ how })}
      />
      {settings.how === "draw" && (
        <div class="two">
          {number("temperature", "Temperature", "0.1", { min: "0" })}
          {number("topP", "top_p", "0.05", { min: "0" })}
          {number("topK", "top_k", "1", { min: "0" })}
          {number("seed", "Seed", "1", { min: "0", placeholder: "drawn" })}
        </div>
      )}
      {settings.how === "beams" &&
        number("beams", "Beams", "1", {
          min: "2",
          hint: "Beam search does not stream: columns fill when all beams have ended.",
        })}
      <Segments
        label="The answer must be"
        options={{ free: "Free text", choice: "One of", json: "JSON", regex: "Regex" }}
        value={settings.form}
        onValue={(form) => set({ form })}
      />
      {settings.form === "choice" && (
        <Field label="One choice a line" rows={4} value={settings.choices} onValue={(choices) => set({ choices })} />
      )}
      {settings.form === "json" && (
        <Field
          label="JSON schema"
          rows={8}
          mono
          value={settings.schema}
          error={jsonError(settings.schema)}
          onValue={(schema) => set({ schema })}
        />
      )}
      {settings.form === "regex" && (
        <Field
          label="Regular expression, matched whole"
          mono
          value={settings.regex}
          onValue={(regex) => set({ regex })}
        />
      )}
      <details>
        <summary>Penalties and stop</summary>
        <div class="two">
          {number("repetition", "Repetition", "0.1")}
          {number("presence", "Presence", "0.1")}
          {number("frequency", "Frequency", "0.1")}
          {number("ngram", "No n-gram twice", "1", { min: "0" })}
          <Field label="Stop string" mono value={settings.stop} onValue={(stop) => set({ stop })} placeholder="none" />
        </div>
      </details>
    </Dialog>
  );
}

function jsonError(text: string): string | null {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return `Not JSON: ${(error as Error).message}`;
  }
}
