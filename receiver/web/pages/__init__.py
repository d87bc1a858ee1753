"""The pages that people open in a browser: one for customers to top up on, one for the operator to look at.

They are plain files (`static/`), served by the daemon alone: no framework, nothing fetched from elsewhere, no script or style inside a
page, and no key in a URL or a cookie. A page holds no figures of anybody: its script asks the same API that programs ask, with the key
that the person typed in.
"""
