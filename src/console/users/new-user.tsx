import { useState } from "preact/hooks";
import { asApiError, type ApiError } from "../api.ts";
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
  const [failed, setFailed] = useState<ApiError | null>(null);
  const create = async (event: Event): Promise<void> => {
    event.preventDefault();
    setFailed(null);
    try {
      await session.api.send("POST", "/admin/users", { id, weight: Number(weight) });
      onCreated(id);
    } catch (error) {
      setFailed(asApiError(error));
    }
  };
  return (
    <Dialog
      title="New user"
      onClose={onClose}
      foot={
        <>
          <button type="button" class="btn" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" form="new-user" class="btn main" disabled={id === ""}>
            Create
          </button>
        </>
      }
    >
      <form id="new-user" class="stack" onSubmit={(event) => void create(event)}>
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
