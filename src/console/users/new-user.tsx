import { useState } from "preact/hooks";
import { useAction } from "../answers.ts";
import type { Session } from "../session.ts";
import { Dialog, Field, Problem } from "../ui.tsx";

interface NewUserProps {
  readonly session: Session;
  readonly onClose: () => void;
  readonly onCreated: (id: string) => void;
}

export function NewUserDialog({ session, onClose, onCreated }: NewUserProps) {
  const [id, setId] = useState("");
  const [weight, setWeight] = useState("1");
  const { busy, failed, act } = useAction();
  const create = (event: Event): void => {
    event.preventDefault();
    act(() => session.api.send("POST", "/admin/users", { id, weight: Number(weight) }).then(() => onCreated(id)));
  };
  return (
    <Dialog
      title="New user"
      onClose={onClose}
      fixed={busy}
      foot={
        <>
          <button type="button" class="btn" disabled={busy} onClick={onClose}>
            Cancel
          </button>
          <button type="submit" form="new-user" class="btn main" disabled={busy || id === ""}>
            {busy ? "Creating…" : "Create"}
          </button>
        </>
      }
    >
      <form id="new-user" class="stack" onSubmit={create}>
        <Field label="User id" value={id} onValue={setId} mono focus placeholder="ann" />
        <Field
          label="Weight"
          type="number"
          step="any"
          min="0"
          value={weight}
          onValue={setWeight}
          hint="2 gets twice the share of 1 while both wait."
        />
        {failed !== null && <Problem error={failed} />}
      </form>
    </Dialog>
  );
}
