"""Texts that models of one space are compared on: short and long, plain and odd, written for this."""

SAMPLES = (
    "hello",
    "capital of France",
    "How do plants turn light into sugar?",
    "The invoice for order 20-1187 is due on 3 March; please pay it to the account below.",
    "def add(a, b):\n    return a + b",
    "A red bicycle leans against the wall of the bakery.",
    "Shares fell by 4.2% after the central bank raised its rate for the third time this year.",
    "Take two tablets of 200 mg with water every eight hours, and never more than six a day.",
    "TypeError: 'NoneType' object is not subscriptable",
    "Penguins live in the southern half of the world and cannot fly, but they swim very well, catch "
    "fish and krill under water, and raise their young in colonies of many thousands of birds.",
    "is it legal to record a phone call without telling the other person",
    "https://example.org/docs/install.html#windows",
)
