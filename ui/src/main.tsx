// The console's beginning: the theme, then the page.

import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style/tokens.css";
import "./style/base.css";
import "./style/now.css";
import "./style/flows.css";
import "./style/guard.css";
import "./style/interfaces.css";
import { App } from "./views/app.tsx";
import { applyTheme } from "./state/store.ts";

applyTheme();
render(<App />, document.getElementById("app")!);
