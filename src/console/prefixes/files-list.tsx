import { useAction } from "../answers.ts";
import type { Prefix } from "../api.ts";
import { size } from "../format.ts";
import type { Session } from "../session.ts";
import { Problem } from "../ui.tsx";

/** The files as they were uploaded, to be downloaded. A link would carry no key. */
export function Files({ session: { api }, prefix: { id, files } }: { session: Session; prefix: Prefix }) {
  const { busy, failed, act } = useAction();
  const download = async (name: string): Promise<void> => {
    const url = URL.createObjectURL(
      await api.file(`/prefixes/${encodeURIComponent(id)}/adapter/${encodeURIComponent(name)}`),
    );
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
    URL.revokeObjectURL(url);
  };
  return (
    <section class="stack line-top" aria-labelledby="files-title">
      <h3 id="files-title">Files</h3>
      {failed !== null && <Problem what="It was not downloaded." error={failed} />}
      <ul class="shares">
        {Object.entries(files).map(([name, bytes]) => (
          <li key={name}>
            <code class="grow cut">{name}</code>
            <span class="small soft">{size(bytes)}</span>
            <button
              type="button"
              class="btn tiny"
              aria-label={`Download ${name}`}
              aria-disabled={busy}
              onClick={() => act(() => download(name))}
            >
              Download
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
