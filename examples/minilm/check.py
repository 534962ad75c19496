"""Checks a running server by its answers: python3 check.py http://127.0.0.1:PORT

Exits 0 if all hold and 1 if one does not. Needs nothing but Python.
"""

import json
import sys
import urllib.error
import urllib.request

MODEL = "all-MiniLM-L6-v2"
# The example of Sentence Transformers' own documentation, with the similarities it
# prints for this model: of the first to the second, and of the first to the third.
WEATHER = "The weather is lovely today."
SUNNY = "It's so sunny outside!"
STADIUM = "He drove to the stadium."
PUBLISHED_SUNNY, PUBLISHED_STADIUM = 0.6660, 0.1046


def ask(url, body=None):
    """Status and decoded answer; a dict is sent as JSON, bytes as they are."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def embed(base, texts):
    status, answer = ask(f"{base}/v1/embeddings", {"model": MODEL, "input": texts})
    if status != 200:
        raise SystemExit(f"check.py: {status} for {texts!r}: {answer}")
    return [row["embedding"] for row in answer["data"]]


def dot(left, right):
    return sum(a * b for a, b in zip(left, right))


def checks(base):
    """Pairs of what is claimed and whether it holds."""
    yield "health answers ok", ask(f"{base}/health") == (200, {"status": "ok"})
    models = [model["id"] for model in ask(f"{base}/v1/models")[1]["data"]]
    yield f"models are {models}", models == [MODEL]

    weather, sunny, stadium = embed(base, [WEATHER, SUNNY, STADIUM])
    for vector in (weather, sunny, stadium):
        norm = dot(vector, vector) ** 0.5
        claim = f"{len(vector)} numbers of norm {norm:.6f}"
        yield claim, len(vector) == 384 and abs(norm - 1) < 1e-4
    near, far = dot(weather, sunny), dot(weather, stadium)
    yield f"paraphrases at {near:.4f}, above 0.5", near > 0.5
    yield f"unrelated texts at {far:.4f}, below 0.2", far < 0.2
    yield f"published is {PUBLISHED_SUNNY:.4f}", abs(near - PUBLISHED_SUNNY) < 5e-4
    yield f"published is {PUBLISHED_STADIUM:.4f}", abs(far - PUBLISHED_STADIUM) < 5e-4

    alone = embed(base, STADIUM)[0]
    yield "a text alone gets the same vector as among others", dot(alone, stadium) > 0.99999
    long = embed(base, "word " * 2000)[0]
    yield "a text that is too long is cut, not refused", abs(dot(long, long) - 1) < 1e-3

    for what, body, wanted in [
        ("not JSON", b"{", 400),
        ("a body that is no object", b"[]", 400),
        ("a missing model", {"input": "x"}, 400),
        ("another model", {"model": "other", "input": "x"}, 404),
        ("a missing input", {"model": MODEL}, 400),
        ("an input of numbers", {"model": MODEL, "input": [1, 2]}, 400),
        ("an empty list", {"model": MODEL, "input": []}, 400),
        ("an empty text", {"model": MODEL, "input": [""]}, 400),
        ("too many texts", {"model": MODEL, "input": ["x"] * 65}, 400),
        ("half a surrogate pair", b'{"model": "all-MiniLM-L6-v2", "input": "\\ud800"}', 400),
        ("nesting without end", b"[" * 100000, 400),
    ]:
        status, answer = ask(f"{base}/v1/embeddings", body)
        yield f"{what} is refused with {wanted}", status == wanted and answer["error"]["message"]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python3 check.py http://127.0.0.1:PORT")
    failed = 0
    for claim, holds in checks(sys.argv[1].rstrip("/")):
        print(f"{'ok    ' if holds else 'FAILED'} {claim}")
        failed += not holds
    if failed:
        sys.exit(f"check.py: {failed} failed")


if __name__ == "__main__":
    main()
