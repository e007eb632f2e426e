import { PrefixdError } from "../../errors.ts";
import type { PrefixKey } from "../../prefixes/store.ts";
import type { AppParts } from "../app-parts.ts";
import { parsePrefixId, prefixNamed } from "../prefixes/id.ts";

/**
 * What `model` names: a prefix, or null for the bare base model. A prefix may have the base's name. Which is meant is
 * then not guessed: the one must never answer for the other.
 * @throws PrefixdError invalid_prefix_id; invalid_parameter if the user has access to a prefix of the base's name
 */
export async function namedBy(
  model: string,
  user: string,
  { modelName, prefixes }: Pick<AppParts, "modelName" | "prefixes">,
): Promise<PrefixKey | null> {
  if (model !== modelName) return parsePrefixId(model, user);
  const key = prefixNamed(model, user);
  if (key === null || (await prefixes.find(key, user)) === null) return null;
  const full = `${key.user}/${key.name}`;
  throw new PrefixdError(
    "invalid_parameter",
    model === full
      ? `model ${JSON.stringify(model)} is the base model as well as a prefix; POST /generate tells them apart.`
      : `model ${JSON.stringify(model)} is the base model as well as your prefix: for the prefix send ${JSON.stringify(full)}, for the base model use POST /generate.`,
    { field: "model" },
  );
}
