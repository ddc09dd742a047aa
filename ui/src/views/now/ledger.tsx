// The ledger: every counter of loss, zeros included, in the order of the data's way.

import type { LossLine } from "../../api/types.ts";
import { Icon } from "../../parts/parts.tsx";
import { useMedia } from "../../state/hooks.ts";
import { count, exact, plural } from "../../text/format.ts";
import { byStage, lossAmount, stageSums, type LossUnit } from "./rates.ts";

const one: Record<LossUnit, string> = { records: "record", packets: "packet", datagrams: "datagram", bytes: "byte" };

export function Ledger({ losses }: { losses: LossLine[] }) {
  const wide = useMedia("(min-width: 700px)");
  const stages = byStage(losses);
  const lost = losses.filter((l) => lossAmount(l).n > 0).length;
  return (
    <section class="panel ledger" aria-label="Losses">
      <header>
        <h2>Loss, stage by stage</h2>
        <p class="muted">
          {losses.length} counters, {lost === 0 ? "all at zero" : `${lost} above zero`} since weir started. Each is here, zeros too.
        </p>
      </header>
      <div class="stages">
        {stages.map((s) => {
          const sums = stageSums(s.lines);
          const growing = s.lines.some((l) => l.recent > 0);
          return (
            <details key={s.name + wide} open={wide} class={growing ? "growing" : sums.length > 0 ? "some" : ""} data-stage={s.name}>
              <summary>
                <span class="stage">{s.label}</span>
                <span class="sum">{sums.length === 0 ? "0" : sums.map((x) => plural(x.n, one[x.unit])).join(", ")}</span>
                <Icon name="down" />
              </summary>
              <dl>
                {s.lines.map((l) => {
                  const { n, unit } = lossAmount(l);
                  return (
                    <div key={l.reason} class={n === 0 ? "zero" : l.recent > 0 ? "growing" : ""} title={l.help + (n > 0 ? ` (${exact(n)} ${unit})` : "")} data-reason={l.reason}>
                      <dt>{l.reason}</dt>
                      <dd>
                        {l.recent > 0 && <span class="recent" title={`${exact(l.recent)} within the last minute`}><Icon name="warn" /></span>}
                        {count(n)}
                      </dd>
                    </div>
                  );
                })}
              </dl>
            </details>
          );
        })}
      </div>
    </section>
  );
}
