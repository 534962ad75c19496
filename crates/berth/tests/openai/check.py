"""Asks workers directly and through a gateway with the `openai` client, and compares.

    check.py GATEWAY CHAT NARROW MINILM

Each is `HOST:PORT`: a gateway, and the workers behind it that serve the models
`chat`, `narrow` (one request at a time, nobody waits) and `all-MiniLM-L6-v2`.
Prints a line for each check that held, and ends at the first that does not.
"""

import asyncio
import re
import sys
import time
import urllib.request

import openai

GATEWAY, CHAT, NARROW, MINILM = sys.argv[1:]
CHECKS = []
PROMPT = [{"role": "user", "content": "What is it?"}]
MINILM_MODEL = "all-MiniLM-L6-v2"
TEXTS = ["The weather is lovely today.", "Er fährt zum Stadion. ☀", "x" * 5_000]


def check(function):
    CHECKS.append(function)
    return function


def client(address, **options):
    options = {"max_retries": 0, "timeout": 60, **options}
    return openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", **options)


def comparable(body):
    """The bytes of an answer, but for the second in which it was made."""
    return re.sub(rb'"created":\d+', b'"created":0', body)


def both(name, call, direct):
    """What `call` gets from the worker and through the gateway, which must be the same bytes.

    Both calls have the same id, of which the worker makes that of its answer.
    """
    headers = {"x-request-id": name}
    bodies = [call(client(address), headers) for address in (direct, GATEWAY)]
    assert bodies[0], "an empty answer is equal to any other"
    assert comparable(bodies[0]) == comparable(bodies[1]), bodies


def whole(call):
    """The bytes of an answer that comes at once."""
    raw = call()
    raw.parse()
    return raw.http_response.content


def pieces(call):
    """The bytes of an answer that comes in pieces."""
    with call() as response:
        return b"".join(response.iter_bytes())


def refused(call):
    """The error of a call."""
    try:
        call()
    except openai.APIError as error:
        return error
    raise AssertionError("it was not refused")


def until(what, condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def running(worker):
    """Requests that a worker works on, as it says itself."""
    with urllib.request.urlopen(f"http://{worker}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return float(re.search(r"^vllm:num_requests_running\{.*\} (.+)$", text, re.M)[1])


@check
def models():
    listed = {model.id for model in client(GATEWAY).models.list()}
    assert listed == {"chat", "narrow", MINILM_MODEL}, listed
    assert client(GATEWAY).models.retrieve("chat").id == "chat"
    error = refused(lambda: client(GATEWAY).models.retrieve("nobody"))
    assert isinstance(error, openai.NotFoundError), error


@check
def chat():
    def ask(one, headers):
        create = one.chat.completions.with_raw_response.create
        return whole(lambda: create(model="chat", messages=PROMPT, extra_headers=headers))

    both("chat", ask, CHAT)
    answer = client(GATEWAY).chat.completions.create(model="chat", messages=PROMPT, max_tokens=3)
    assert answer.choices[0].message.content == "one two three", answer
    assert answer.usage.completion_tokens == 3, answer
    assert answer._request_id, "an answer says its id"


@check
def chat_in_pieces():
    def ask(one, headers):
        create = one.chat.completions.with_streaming_response.create
        asked = {"model": "chat", "messages": PROMPT, "max_tokens": 40, "stream": True}
        usage = {"include_usage": True}
        return pieces(lambda: create(**asked, stream_options=usage, extra_headers=headers))

    both("stream", ask, CHAT)
    create = client(GATEWAY).chat.completions.create
    chunks = list(create(model="chat", messages=PROMPT, max_tokens=40, stream=True))
    assert len(chunks) == 40, chunks
    assert chunks[-1].choices[0].finish_reason == "length", chunks


@check
def completions():
    def ask(one, headers):
        create = one.completions.with_raw_response.create
        return whole(lambda: create(model="chat", prompt="Say", extra_headers=headers))

    def ask_in_pieces(one, headers):
        create = one.completions.with_streaming_response.create
        asked = {"model": "chat", "prompt": "Say", "stream": True, "extra_headers": headers}
        return pieces(lambda: create(**asked))

    both("completion", ask, CHAT)
    both("completion-in-pieces", ask_in_pieces, CHAT)


@check
def embeddings_of_a_real_model():
    def ask(one, headers):
        create = one.embeddings.with_raw_response.create
        return whole(lambda: create(model=MINILM_MODEL, input=TEXTS, extra_headers=headers))

    both("embedding", ask, MINILM)
    embed = client(GATEWAY).embeddings.create
    for encoding in ("base64", "float"):
        answer = embed(model=MINILM_MODEL, input=TEXTS[:2], encoding_format=encoding)
        assert len(answer.data) == 2, answer
    vectors = [one.embedding for one in embed(model=MINILM_MODEL, input=TEXTS).data]
    assert [len(vector) for vector in vectors] == [384] * 3, vectors
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-3 for vector in vectors), vectors


@check
def errors():
    gateway = client(GATEWAY)
    error = refused(lambda: gateway.chat.completions.create(model="nobody", messages=PROMPT))
    assert isinstance(error, openai.NotFoundError), error
    assert error.code == "model_not_found" and error.request_id, error

    def body_of_refusal(one, headers):
        asked = {"model": "chat", "messages": PROMPT, "max_tokens": -1}
        error = refused(lambda: one.chat.completions.create(**asked, extra_headers=headers))
        assert isinstance(error, openai.BadRequestError) and error.param == "max_tokens", error
        return error.response.content

    both("refusal", body_of_refusal, CHAT)

    def body_of_models_refusal(one, headers):
        asked = {"model": MINILM_MODEL, "input": []}
        error = refused(lambda: one.embeddings.create(**asked, extra_headers=headers))
        assert isinstance(error, openai.BadRequestError) and error.param == "input", error
        return error.response.content

    both("models-refusal", body_of_models_refusal, MINILM)


@check
def retries():
    """What has no room now is told when to come again, and the client does."""
    ask = {"model": "narrow", "messages": PROMPT}
    long = client(GATEWAY).chat.completions.create(**ask, max_tokens=100_000, stream=True)
    next(iter(long))
    error = refused(lambda: client(GATEWAY).chat.completions.create(**ask))
    assert isinstance(error, openai.InternalServerError), error
    assert error.status_code == 503 and int(error.response.headers["retry-after"]) <= 60, error

    async def ask_while_it_ends():
        options = {"base_url": f"http://{GATEWAY}/v1", "api_key": "none", "max_retries": 2}
        patient = openai.AsyncOpenAI(**options)
        refusals = asyncio.Event()

        async def seen(response):
            refusals.set()

        patient._client.event_hooks["response"].append(seen)
        asked = patient.chat.completions.with_raw_response.create(**ask, max_tokens=2)
        asked = asyncio.create_task(asked)
        await asyncio.wait_for(refusals.wait(), 30)
        long.close()
        return await asked

    raw = asyncio.run(ask_while_it_ends())
    assert raw.retries_taken == 1, raw.retries_taken
    assert raw.parse().choices[0].message.content == "one two"


@check
def timeouts():
    hasty = client(GATEWAY, timeout=0.3)
    ask = {"model": "chat", "messages": PROMPT}
    error = refused(lambda: hasty.chat.completions.create(**ask, max_tokens=100_000))
    assert isinstance(error, openai.APITimeoutError), error
    until("the worker to be idle", lambda: running(CHAT) == 0)
    assert hasty.with_options(timeout=60).chat.completions.create(**ask)


@check
def cancel():
    # As many as fit into the worker's cache together.
    ask = {"model": "chat", "messages": PROMPT, "max_tokens": 5_000, "stream": True}
    streams = [client(GATEWAY).chat.completions.create(**ask) for _ in range(8)]
    for stream in streams:
        for _ in range(3):
            next(iter(stream))
    until("the worker to work on all", lambda: running(CHAT) == 8)
    for stream in streams:
        stream.close()
    until("the worker to be idle", lambda: running(CHAT) == 0)


@check
def many_at_once():
    async def ask(one, number):
        asked = {"model": "chat", "messages": PROMPT, "max_tokens": number % 7 + 1}
        if number % 2:
            answer = await one.chat.completions.create(**asked)
            return answer.usage.completion_tokens
        return len([chunk async for chunk in await one.chat.completions.create(**asked, stream=True)])

    async def ask_all():
        url = f"http://{GATEWAY}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as one:
            return await asyncio.gather(*(ask(one, number) for number in range(200)))

    counts = asyncio.run(ask_all())
    assert counts == [number % 7 + 1 for number in range(200)], counts


for function in CHECKS:
    function()
    print(function.__name__, flush=True)
