import io

from rich.console import Console

from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score


def _result(encoders: int) -> BenchmarkResult:
    scores = {"a long name of a set": Score(12.3456, 11.1111, 13.3333, pairs=1000)}
    named = [EncoderScores(f"encoder {i}", scores) for i in range(encoders)]
    return BenchmarkResult("test", "in some setting", tuple(named), "A note.")


def _printed(result: BenchmarkResult, **console) -> str:
    file = io.StringIO()
    result.print(Console(file=file, color_system=None, **console))
    return file.getvalue()


def test_a_narrow_terminal_gets_whole_numbers_in_several_tables():
    text = _printed(_result(8), width=80, force_terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    # Eight encoders, and seven differences from the first.
    assert text.count("[11.11, 13.33]") == 8 and text.count(" - encoder 0") == 7
    assert text.count("a long name of a set") > 1
    assert text.count("in some setting") == text.count("A note.") == 1


def test_one_table_is_enough_where_it_fits_or_where_nobody_counts_columns():
    for console in ({"width": 300, "force_terminal": True}, {"width": 80}):
        text = _printed(_result(6), **console)
        assert text.count("a long name of a set") == 1
        assert text.count("[11.11, 13.33]") == 6
