/** Who is signed in. Nothing of it is stored: a reload forgets it. */
import { Api, ApiError, type Model } from "./api.ts";

export interface Session {
  readonly api: Api;
  readonly model: Model;
  readonly user: string;
  /** Whether the admin routes are open to the user. */
  readonly admin: boolean;
}

/** The user of a server without keys, and the owner of the admin key. */
const [LOCAL_USER, ADMIN_USER] = ["local", "admin"];

/** Throws ApiError 401 if the server asks for a (better) key. */
export async function signIn(key: string | null): Promise<Session> {
  const api = new Api(key);
  const [{ user }, model] = await Promise.all([api.get<{ user: string }>("/usage?limit=1"), api.get<Model>("/model")]);
  return { api, model, user, admin: user === LOCAL_USER || user === ADMIN_USER };
}

/** Whether the server asks for a key. */
export const needsKey = (error: unknown): boolean => error instanceof ApiError && error.status === 401;

/** Users exist only where there are keys. */
export const hasUsers = ({ user, admin }: Session): boolean => admin && user !== LOCAL_USER;
