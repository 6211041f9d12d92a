"""JSON files are those that Python's own encoder would write."""

import json

from hypothesis import given
from hypothesis import strategies as st

from brainray.storage.json_text import json_bytes

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3) | st.tuples(inner) | st.just({})
    ),
    max_leaves=12,
)


@given(st.dictionaries(keys, values, max_size=4))
def test_it_is_what_python_writes(value):
    """Else a run that is written again has other bytes, or a file that no reader can parse."""
    assert json_bytes(value) == f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode(errors="surrogatepass")
