/** The file that a job learns from: dropped, chosen, or one that was uploaded before. */
import { useRef, useState } from "preact/hooks";
import { useAction } from "../answers.ts";
import { asApiError, type ApiError } from "../api.ts";
import { DropZone } from "../drop-zone.tsx";
import { date, size } from "../format.ts";
import type { Session } from "../session.ts";
import { keepFocus, Problem } from "../ui.tsx";
import type { TrainingFile } from "./progress.ts";

interface ExamplesProps {
  readonly session: Session;
  readonly files: readonly TrainingFile[];
  readonly chosen: string;
  readonly onChoose: (file: TrainingFile) => void;
  /** It is chosen no longer, if it was. */
  readonly onDrop: (id: string) => void;
  /** The list of files has changed. */
  readonly onChanged: () => Promise<void>;
}

export function Examples({ session: { api }, files, chosen, onChoose, onDrop, onChanged }: ExamplesProps) {
  const [uploading, setUploading] = useState<readonly string[]>([]);
  const [failed, setFailed] = useState<{ readonly what: string; readonly error: ApiError } | null>(null);
  /** A file that is chosen or dropped while another is on its way is the one that is meant. */
  const choices = useRef(0);
  const upload = async (file: File | undefined): Promise<void> => {
    if (file === undefined) return;
    const mine = ++choices.current;
    setFailed(null);
    setUploading((names) => [...names, file.name]);
    const form = new FormData();
    form.append("purpose", "fine-tune");
    form.append("file", file, file.name);
    try {
      const stored = await api.send<TrainingFile>("POST", "/v1/files", form);
      await onChanged();
      if (mine === choices.current) onChoose(stored);
    } catch (error) {
      setFailed({ what: `${file.name} was not stored.`, error: asApiError(error) });
    }
    setUploading((names) => names.toSpliced(names.indexOf(file.name), 1));
  };
  const choose = (id: string): void => {
    choices.current++;
    const file = files.find((one) => one.id === id);
    if (file === undefined) onDrop(chosen);
    else onChoose(file);
  };
  const removal = useAction();
  const select = useRef<HTMLSelectElement>(null);
  const remove = async (id: string): Promise<void> => {
    await api.send("DELETE", `/v1/files/${id}`);
    await onChanged().finally(() => onDrop(id));
    keepFocus(() => select.current);
  };
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
      {uploading.length > 0 && (
        <p class="soft" role="status">
          {uploading.join(", ")} {uploading.length === 1 ? "is on its way" : "are on their way"}, and checked line by
          line…
        </p>
      )}
      {failed !== null && <Refused {...failed} />}
      {removal.failed !== null && <Problem what="The file was not deleted." error={removal.failed} />}
      {files.length > 0 && (
        <div class="row bottom">
          <div class="field grow">
            <label for="examples">Examples</label>
            <select
              ref={select}
              id="examples"
              value={chosen}
              onChange={({ currentTarget: { value } }) => choose(value)}
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
            <button type="button" class="btn quiet danger" onClick={() => removal.act(() => remove(chosen))}>
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
