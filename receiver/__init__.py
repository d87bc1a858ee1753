"""Spantoll: an OTLP receiver that says what every model call really cost, and who spent it.

One straight way for the data, a new noun at every arrow (`intake.py` and `closing.py` are the two lines of it):

    request -admit-> account -decode-> Spans -unseen-> new Spans -accept-> acknowledged
                                                           `-> window
    window -release-> Group -count-> LLMCalls -price-> PricedCalls -attribute-> Charges -close-> observed

Everything between bytes and Charges is pure and synchronous: list in, list out, told the time.
"""

__version__ = "0.1.0"
