/**
 * Wraps an object so that `onError(method, error)` is called when a method's promise rejects. Method names become a
 * metric's label, so use it on small interfaces of our own, such as PrefixStore.
 */
export function observeErrors<T extends object>(target: T, onError: (method: string, error: unknown) => void): T {
  return new Proxy(target, {
    get(object, property) {
      const value: unknown = Reflect.get(object, property, object);
      if (typeof value !== "function" || typeof property !== "string") return value;
      return (...args: unknown[]): unknown => {
        const result: unknown = Reflect.apply(value, object, args);
        // A second handler on the promise: the caller still sees the rejection.
        if (result instanceof Promise) result.catch((error: unknown) => onError(property, error));
        return result;
      };
    },
  });
}
