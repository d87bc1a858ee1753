// The front page works without this; with it, what is to be pasted can be copied.

import { copyable } from "./common.js";

copyable();
