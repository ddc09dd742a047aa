// The filter bar: the query language with completion, history, and errors where they are.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { apiURL, get } from "../../api/client.ts";
import type { CheckAnswer, CompleteAnswer, Completion, Error as Failure } from "../../api/types.ts";
import { Icon } from "../../parts/parts.tsx";
import { useDismiss } from "../../state/hooks.ts";
import { past, remember } from "../../query/history.ts";

interface Offer {
  /** The text that it was made for: to another it does not apply. */
  text: string;
  from: number;
  to: number;
  words: Completion[];
  /** Whole filters of the past instead of words. */
  whole?: boolean;
}

const most = 9;

export function FilterBar({ value, answered, onSubmit, failure }: {
  value: string;
  /** The filter was understood: worth remembering. */
  answered: boolean;
  onSubmit: (filter: string) => void;
  failure: Failure | undefined;
}) {
  const [text, setText] = useState(value);
  const [check, setCheck] = useState<CheckAnswer>();
  const [offer, setOffer] = useState<Offer>();
  const [choice, setChoice] = useState(-1);
  const [scrolled, setScrolled] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const close = useCallback(() => setOffer(undefined), []);
  const box = useDismiss<HTMLDivElement>(offer !== undefined, close);
  const asked = useRef(0);

  // The address changed: by a click on a value, or by going back.
  useEffect(() => {
    setText(value);
    setCheck(undefined);
    setOffer(undefined);
  }, [value]);

  useEffect(() => {
    if (answered && value) remember(value);
  }, [answered, value]);

  // Checked while it is written, once the writer pauses.
  useEffect(() => {
    if (text === value || text.trim() === "") {
      setCheck(undefined);
      return;
    }
    const control = new AbortController();
    const timer = window.setTimeout(() => {
      get<CheckAnswer>(apiURL("filter/check", { filter: text }), control.signal).then(
        ({ data }) => setCheck(data),
        () => {}, // the answer to Enter will say what is wrong
      );
    }, 250);
    return () => {
      window.clearTimeout(timer);
      control.abort();
    };
  }, [text, value]);

  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test((e.target as HTMLElement).tagName)) {
        e.preventDefault();
        input.current?.focus();
        input.current?.select();
      }
    };
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, []);

  const suggest = async (t: string, at: number) => {
    const mine = ++asked.current;
    if (t.trim() === "") {
      const all = past();
      setOffer(all.length > 0 ? { text: t, from: 0, to: t.length, words: all.slice(0, most).map((word) => ({ word, help: "" })), whole: true } : undefined);
      setChoice(-1);
      return;
    }
    try {
      const { data } = await get<CompleteAnswer>(apiURL("filter/complete", { filter: t, at: String([...t.slice(0, at)].length) }));
      if (mine !== asked.current) return;
      setOffer(data.words.length > 0 ? { ...data, text: t, words: data.words.slice(0, 40) } : undefined);
      setChoice(-1);
    } catch {
      setOffer(undefined);
    }
  };

  const accept = (word: string) => {
    if (!offer || offer.text !== text) return;
    const chars = [...text];
    const head = chars.slice(0, offer.from).join("") + word;
    const rest = chars.slice(offer.to).join("");
    const next = offer.whole ? word : head + (rest.startsWith(" ") ? rest : " " + rest);
    setText(next);
    setOffer(undefined);
    const at = offer.whole ? next.length : head.length + 1;
    requestAnimationFrame(() => {
      input.current?.focus();
      input.current?.setSelectionRange(at, at);
      if (!offer.whole) void suggest(next, at);
    });
  };

  const submit = () => {
    asked.current++;
    setOffer(undefined);
    const t = text.trim();
    onSubmit(t);
  };

  const key = (e: KeyboardEvent) => {
    if (e.key === "Enter") {
      e.preventDefault();
      if (offer && choice >= 0) accept(offer.words[choice]!.word);
      else submit();
    } else if (offer && (e.key === "ArrowDown" || e.key === "ArrowUp")) {
      e.preventDefault();
      const n = offer.words.length;
      setChoice((c) => (e.key === "ArrowDown" ? (c + 1) % n : (c <= 0 ? n : c) - 1));
    } else if (!offer && e.key === "ArrowDown") {
      e.preventDefault();
      void suggest(text, input.current?.selectionStart ?? text.length);
    } else if (e.key === "Tab" && offer && !e.shiftKey && (choice >= 0 || offer.words.length === 1)) {
      e.preventDefault();
      accept(offer.words[Math.max(choice, 0)]!.word);
    }
  };

  const wrong: Failure | undefined = check && !check.ok ? { ...check, error: check.message } : text === value ? failure : undefined;
  return (
    <div class={"filter" + (wrong ? " wrong" : "")} ref={box}>
      <div class="field">
        <Icon name="terminal" />
        <input
          ref={input}
          type="text"
          class="mono"
          value={text}
          placeholder="all flows; try: src net 10.0.0.0/8 and dst port 443 and bytes > 1M"
          aria-label="Filter"
          aria-invalid={wrong !== undefined}
          aria-describedby="filter-error"
          role="combobox"
          aria-expanded={offer !== undefined}
          aria-controls="filter-offer"
          aria-autocomplete="list"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          onInput={(e) => {
            const el = e.currentTarget;
            setText(el.value);
            setCheck(undefined);
            if (offer?.whole) setOffer(undefined);
            void suggest(el.value, el.selectionStart ?? el.value.length);
          }}
          onFocus={() => text.trim() === "" && void suggest("", 0)}
          onKeyDown={key}
          onScroll={(e) => setScrolled(e.currentTarget.scrollLeft)}
        />
        {text !== "" && (
          <button type="button" class="icon-button" title="Clear the filter" aria-label="Clear the filter" onClick={() => { setText(""); onSubmit(""); }}>
            <Icon name="close" />
          </button>
        )}
        <button type="button" class="button primary" onClick={submit}>Apply</button>
      </div>
      <div id="filter-error" class="filter-error" aria-live="polite">
        {wrong && (
          <>
            {wrong.column && wrong.line === 1 ? (
              <pre aria-hidden="true"><span style={{ marginLeft: -scrolled + "px" }}>{" ".repeat(wrong.column - 1) + "^".repeat(Math.max(1, wrong.width ?? 1))}</span></pre>
            ) : null}
            <p>
              {wrong.line && wrong.column ? <span class="place">column {wrong.column}</span> : null}
              {wrong.error}
              {wrong.suggestion ? <span>. Did you mean <b class="mono">{wrong.suggestion}</b>?</span> : null}
            </p>
          </>
        )}
      </div>
      {offer && (
        <ul class="offer popover" id="filter-offer" role="listbox">
          {offer.words.map((w, i) => (
            <li
              key={w.word}
              role="option"
              aria-selected={i === choice}
              ref={(el) => void (el && i === choice && el.scrollIntoView({ block: "nearest" }))}
              onPointerDown={(e) => {
                e.preventDefault();
                accept(w.word);
              }}
            >
              <span class="mono">{w.word}</span>
              <span class="hint">{w.help}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
