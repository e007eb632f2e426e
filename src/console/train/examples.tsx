/** The file that a job learns from: dropped, chosen, or one that was uploaded before. */
import { useState } from "preact/hooks";
import { asApiError, type ApiError } from "../api.ts";
import { DropZone } from "../drop-zone.tsx";
import { date, size } from "../format.ts";
import type { Session } from "../session.ts";
import { Problem } from "../ui.tsx";
import type { TrainingFile } from "./progress.ts";

interface ExamplesProps {
  readonly session: Session;
  readonly files: readonly TrainingFile[];
  readonly chosen: string;
  readonly onChoose: (file: TrainingFile | null) => void;
  /** The list of files has changed. */
  readonly onChanged: () => Promise<void>;
}

export function Examples({ session: { api }, files, chosen, onChoose, onChanged }: ExamplesProps) {
  const [uploading, setUploading] = useState<string | null>(null);
  const [failed, setFailed] = useState<{ readonly what: string; readonly error: ApiError } | null>(null);
  const attempt = async (what: string, action: () => Promise<TrainingFile | null>): Promise<void> => {
    setFailed(null);
    try {
      const file = await action();
      await onChanged();
      onChoose(file);
    } catch (error) {
      setFailed({ what, error: asApiError(error) });
    }
  };
  const upload = async (file: File | undefined): Promise<void> => {
    if (file === undefined) return;
    setUploading(file.name);
    const form = new FormData();
    form.append("purpose", "fine-tune");
    form.append("file", file, file.name);
    await attempt(`${file.name} was not stored.`, () => api.send<TrainingFile>("POST", "/v1/files", form));
    setUploading(null);
  };
  const remove = (): Promise<void> =>
    attempt("The file was not deleted.", () => api.send<null>("DELETE", `/v1/files/${chosen}`).then(() => null));
  return (
    <>
      <DropZone
        what="Drop a JSONL file"
        choose="choose one"
        label="A file of examples"
        accept=".jsonl,.json,.txt"
        onDrop={(data) => void upload(data.files[0])}
        onChoose={([file]) => void upload(file)}
      >
        <p class="small faint">
          One <code>{'{"prompt": "…", "completion": "…"}'}</code> a line, UTF-8. 100 lines are enough to try.
        </p>
      </DropZone>
      {uploading !== null && (
        <p class="soft" role="status">
          {uploading} is on its way, and checked line by line…
        </p>
      )}
      {failed !== null && <Refused {...failed} />}
      {files.length > 0 && (
        <div class="row bottom">
          <div class="field grow">
            <label for="examples">Examples</label>
            <select
              id="examples"
              value={chosen}
              onChange={({ currentTarget: { value } }) => onChoose(files.find(({ id }) => id === value) ?? null)}
            >
              <option value="">Choose a file…</option>
              {files.map((file) => (
                <option key={file.id} value={file.id}>
                  {fileLabel(file)}
                </option>
              ))}
            </select>
          </div>
          {chosen !== "" && (
            <button type="button" class="btn quiet danger" onClick={() => void remove()}>
              Delete file
            </button>
          )}
        </div>
      )}
    </>
  );
}

export const fileLabel = ({ filename, bytes, created_at }: TrainingFile): string =>
  `${filename}, ${size(bytes)}, ${date(created_at)}`;

/** The server's words; the lines that it names, one by one. */
function Refused({ what, error }: { what: string; error: ApiError }) {
  const [, cause, lines] = /^(.*?): (line \d+: .*?)\.?$/s.exec(error.message) ?? [];
  if (error.code !== "training_data_invalid" || cause === undefined || lines === undefined)
    return <Problem what={what} error={error} />;
  return (
    <div class="note bad" role="alert">
      <p>
        <strong>{what}</strong> <span class="soft">{cause}.</span>
      </p>
      <ol class="lines" aria-label="Lines that cannot be used">
        {lines.split(/; (?=line \d+: )/).map((line) => (
          <li key={line}>{line}</li>
        ))}
      </ol>
      <p class="small soft">
        <code>{error.code}</code> {error.status}
      </p>
    </div>
  );
}
