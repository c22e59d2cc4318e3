"""The page in a browser: a question is asked, stopped, changed, compared, looked into and rated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from live import soon
from page_server import EXPERTS, LAYERS, Fake, expert, logprob, pieces
from quatrain.text.chat import user_content

pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,  # the pipe to the browser, and the server of the tests
]
CHAT = "/v1/chat/completions"
ANSWER = "Le chat dort sur le tapis rouge."
DONE = ".answer[aria-busy=false]"
HOSTILE = (
    "<script>document.title = 'taken'</script><img src=http://example.org/x.png onerror=alert(1)> "
    "</bdi><style>*{display:none}</style> [a](javascript:alert(1)) \u202eenvers\u202c \x1b[31m "
    "&lt; {count}"
)


def ask(page: Any, question: str, answers: int = 1) -> None:
    """Type a question, send it, and wait until it has its answers."""
    before = page.locator(".turn").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    turn = page.locator(".turn").nth(before)
    turn.locator(DONE).nth(answers - 1).wait_for()


def wait(page: Any, expression: str) -> None:
    """Wait until an expression is true in the page, whose policy forbids that it does so itself."""
    assert soon(lambda: page.evaluate(expression), seconds=30)


def said(page: Any, place: int = 0) -> str:
    return str(page.locator(".answer .said").nth(place).inner_text())


def test_an_answer_appears_while_it_is_written(page: Any, fake: Fake) -> None:
    fake.pause = 0.15
    page.fill("#question", "  Que fait le chat ?  ")
    page.press("#question", "Enter")
    wait(page, "document.querySelector('.answer .said')?.innerText === 'Le chat dort'")
    assert page.get_attribute(".answer", "aria-busy") == "true"
    page.wait_for_selector(DONE)
    assert said(page) == ANSWER
    [body] = fake.asked(CHAT)
    assert body["messages"] == [{"role": "user", "content": "Que fait le chat ?"}]
    assert body["stream_options"] == {"include_usage": True}
    assert {body["temperature"], body["seed"]} == {0}
    assert page.locator(".facts").inner_text().startswith("8 tokens, ")
    speed = float(page.locator(".facts").inner_text().split()[2])
    assert 0 < speed < 9  # a token every 0.15 s, and what the machine adds


def test_a_screen_reader_hears_an_answer_once(page: Any, fake: Fake) -> None:
    page.evaluate("""() => { window.heard = []; new MutationObserver(() =>
        heard.push(document.getElementById('status').textContent))
        .observe(document.getElementById('status'), {childList: true, characterData: true}); }""")
    fake.pause = 0.02
    ask(page, "Que fait le chat ?")
    assert page.evaluate("heard") == ["demo answers.", f"demo: {ANSWER}"]
    live = page.locator("[aria-live], [role=log], [role=status], [role=alert]")
    assert live.evaluate_all("all => all.map(one => one.id)") == ["alert", "status"]


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_frees_the_place_and_keeps_what_was_said(page: Any, fake: Fake, way: str) -> None:
    fake.pause = 0.1
    page.fill("#question", "Que fait le chat ?")
    page.press("#question", "Enter")
    wait(page, "document.querySelector('.answer .said')?.innerText.length > 2")
    page.keyboard.press("Escape") if way == "Escape" else page.click("#stop")
    page.wait_for_selector(DONE)
    assert soon(lambda: fake.active == 0)
    assert ANSWER.startswith(said(page).strip())
    assert page.locator(".problem").inner_text() == "Stopped."
    fake.pause = 0
    ask(page, "Et maintenant ?")
    assert fake.asked(CHAT)[1]["messages"][1]["content"] == said(page)


def test_the_conversation_goes_on_from_an_edited_question(page: Any, fake: Fake) -> None:
    for question in ("Un ?", "Deux ?", "Trois ?"):
        ask(page, question)
    page.get_by_role("button", name="Edit: Deux ?").click()
    page.fill(".editing textarea", "Dix ?")
    page.keyboard.press("Enter")
    wait(page, "document.querySelectorAll('.turn').length === 2")
    page.locator(".turn").nth(1).locator(DONE).wait_for()
    assert page.locator(".question").all_inner_texts() == ["Un ?", "Dix ?"]
    contents = [message["content"] for message in fake.asked(CHAT)[-1]["messages"]]
    assert contents == ["Un ?", ANSWER, "Dix ?"]


def test_an_edit_that_is_cancelled_changes_nothing(page: Any, fake: Fake) -> None:
    ask(page, "Un ?")
    page.get_by_role("button", name="Edit: Un ?").click()
    page.fill(".editing textarea", "Dix ?")
    page.keyboard.press("Escape")
    assert page.locator(".question").all_inner_texts() == ["Un ?"]
    assert len(fake.asked(CHAT)) == 1


def test_earlier_turns_can_be_left_out(page: Any, fake: Fake) -> None:
    ask(page, "Un ?")
    page.uncheck("#earlier")
    ask(page, "Deux ?")
    assert [m["content"] for m in fake.asked(CHAT)[1]["messages"]] == ["Deux ?"]


def test_a_model_that_learnt_single_questions_is_asked_each_by_itself_unless_told(
    open_page: Any, fake: Fake
) -> None:
    fake.models[0]["single_questions"] = True
    page = open_page()
    ask(page, "Un ?")
    ask(page, "Deux ?")
    assert "It learnt single questions" in page.locator("#lede").inner_text()
    page.check("#earlier")
    ask(page, "Trois ?")
    page.reload()
    page.wait_for_selector("#lede span")
    assert page.is_checked("#earlier")
    sent = [len(body["messages"]) for body in fake.asked(CHAT)]
    assert sent == [1, 1, 5]


def test_answering_again_draws_with_the_next_seed(page: Any, fake: Fake) -> None:
    ask(page, "Un ?")
    fake.answers["Un ?"] = "Autre chose."
    page.fill("#seed", "7")
    page.get_by_role("button", name="Answer again").click()
    wait(page, "document.querySelector('.answer .said').innerText === 'Autre chose.'")
    assert [body["seed"] for body in fake.asked(CHAT)] == [0, 8]
    assert page.locator(".answer").count() == 1


def test_two_models_answer_side_by_side_and_each_reads_its_own_answers(
    page: Any, fake: Fake
) -> None:
    fake.by_model = {"demo": "Paris.", "pretrain": "La ville de"}
    ask(page, "Un ?")
    page.select_option("#other", "pretrain")
    ask(page, "Deux ?", answers=2)
    ask(page, "Trois ?", answers=2)
    first, second = page.locator(".turn").nth(1).locator(".answer").all()
    assert [one.locator("h3").inner_text() for one in (first, second)] == ["demo", "pretrain"]
    places = [one.bounding_box() for one in (first, second)]
    assert places[0]["y"] == places[1]["y"]
    assert places[0]["x"] + places[0]["width"] <= places[1]["x"]
    last = {body["model"]: [m["content"] for m in body["messages"]] for body in fake.asked(CHAT)}
    assert last == {
        "demo": ["Un ?", "Paris.", "Deux ?", "Paris.", "Trois ?"],
        "pretrain": ["Un ?", "Paris.", "Deux ?", "La ville de", "Trois ?"],
    }


def test_a_look_inside_shows_probabilities_and_experts(page: Any, fake: Fake) -> None:
    ask(page, "Que fait le chat ?")
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=listbox]")
    [body] = fake.asked("/api/inspect")
    assert (body["model"], body["answer"]) == ("demo", ANSWER)
    tokens = pieces(ANSWER)
    options = page.locator("[role=option]")
    assert options.evaluate_all("all => all.map(one => one.textContent)") == tokens
    options.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    chosen = page.locator("[role=option][aria-selected=true]")
    assert chosen.text_content() == tokens[2]
    assert chosen.get_attribute("aria-label").startswith("dort, ")
    assert "; next likeliest autre1, " in chosen.get_attribute("aria-label")
    assert page.locator(".chosen h4").inner_text() == f"Token 3 of {len(tokens)}"
    where = "; ".join(f"{layer}: {expert(tokens[2], layer)}" for layer in range(LAYERS))
    described = page.get_attribute(".cells", "aria-label")
    assert described == f"Experts of token 3, layer by layer: {where}"
    assert page.get_attribute(".mark", "d").count("M") == LAYERS
    page.keyboard.press("End")
    assert page.locator(".chosen h4").inner_text() == f"Token 7 of {len(tokens)}"
    options.nth(4).hover()
    assert page.locator(".chosen h4").inner_text() == f"Token 5 of {len(tokens)}"
    page.locator("#question").hover()
    assert page.locator(".chosen h4").inner_text() == f"Token 7 of {len(tokens)}"


def test_shades_follow_probabilities_and_counts(page: Any, fake: Fake) -> None:
    ask(page, "Que fait le chat ?")
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=option]")
    tokens = pieces(ANSWER)
    shades = page.locator("[role=option]").evaluate_all("all => all.map(one => one.classList[1])")
    edges = (-0.10536, -0.69315, -1.60944)  # of 0.9, 0.5 and 0.2
    assert shades == [f"p{sum(logprob(token) < edge for edge in edges)}" for token in tokens]
    assert len(set(shades)) > 1
    cells = {
        int(path.get_attribute("class")[1]): path.get_attribute("d").count("M")
        for path in page.locator(".cells svg path:not(.mark)").all()
    }
    counts = [[0] * EXPERTS for _ in range(LAYERS)]
    for token in tokens:
        for layer in range(LAYERS):
            counts[layer][expert(token, layer)] += 1
    most = max(map(max, counts))
    flat = [-(-5 * count // most) for row in counts for count in row]
    assert cells == {shade: flat.count(shade) for shade in range(6)}
    page.locator("summary", has_text="As a table").click()
    busiest = page.locator(".experts tbody tr").nth(1).locator("td").nth(1).inner_text()
    assert busiest.startswith(f"{counts[1].index(max(counts[1]))}, with {max(counts[1])} token")


def test_without_experts_what_was_streamed_is_enough(open_page: Any, fake: Fake) -> None:
    fake.models[0]["experts"] = 0
    page = open_page()
    ask(page, "Que fait le chat ?")
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=option]")
    assert not fake.asked("/api/inspect")
    assert page.locator(".experts").count() == 0
    assert "without experts" in page.locator("#lede").inner_text()


def test_a_look_inside_that_fails_still_shows_what_was_streamed(page: Any, fake: Fake) -> None:
    fake.inspects = False
    ask(page, "Que fait le chat ?")
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=option]")
    assert page.locator(".within .problem").inner_text() == "The server refused: out of order"


def test_a_text_is_sent_as_the_command_line_sends_it(page: Any, fake: Fake) -> None:
    text = "Le chat dort.\n\nLe chien court.\n"
    page.click("#context-on")
    page.fill("#context", text)
    ask(page, "Que fait le chien ?")
    assert fake.asked(CHAT)[0]["messages"][0]["content"] == user_content(
        "Que fait le chien ?", text
    )
    assert page.locator("#context-box").is_hidden()
    page.get_by_text("Text of 31 characters").click()
    assert page.locator(".context .said").inner_text() == text
    page.click("#context-on")
    page.fill("#context", "  \n ")
    ask(page, "Et le chat ?")
    assert fake.asked(CHAT)[1]["messages"][-1]["content"] == "Et le chat ?"


DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  for (const type of ['dragover', 'drop']) {
    document.querySelector('main').dispatchEvent(
      new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}"""


def test_a_file_is_read_where_it_is_dropped(page: Any, fake: Fake) -> None:
    page.evaluate(DROP, ["texte.txt", list("\ufeffL'été est là.".encode())])
    wait(page, "document.getElementById('context').value !== ''")
    assert page.input_value("#context") == "L'été est là."
    assert "texte.txt: 13 characters." in page.locator("#context-note").inner_text()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("été".encode("latin-1"), "is not text in UTF-8"),
        (b"PK\x03\x04\x00\x00", "is not text in UTF-8"),
        (b"a" * 500_001, "has more than 500 kB"),
    ],
)
def test_a_file_that_is_no_text_is_refused(page: Any, data: bytes, reason: str) -> None:
    page.evaluate(DROP, ["fichier", list(data)])
    page.get_by_text(f"fichier {reason}").wait_for()
    assert page.input_value("#context") == ""


def test_a_file_can_be_chosen_by_keyboard(page: Any) -> None:
    page.click("#context-on")
    with page.expect_file_chooser() as chosen:
        page.press("#choose", "Enter")
    chosen.value.set_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"Un texte."})
    wait(page, "document.getElementById('context').value === 'Un texte.'")


def test_tokens_are_counted_while_a_question_is_typed(page: Any, fake: Fake) -> None:
    page.fill("#question", "Que fait le chat ?")
    page.get_by_text("9 of 64 tokens, 55 left for the answer").wait_for()
    page.fill("#question", "mot " * 70)
    page.locator("#size.bad").get_by_text("of 64 tokens: too long.").wait_for()
    page.fill("#question", "")
    wait(page, "document.getElementById('size-text').textContent === ''")
    assert len(fake.asked("/api/tokens")) == 2


def test_sliders_stay_in_what_a_model_bears(page: Any, fake: Fake) -> None:
    limits = page.evaluate("""['temperature', 'top_p', 'max_tokens'].map(name =>
        [document.getElementById(name).min, document.getElementById(name).max].map(Number))""")
    assert limits == [[0, 1.5], [0.05, 1], [1, 63]]
    page.focus("#temperature")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.locator("#temperature-now").inner_text() == "0.2"
    page.fill("#system", "Réponds en français.")
    page.fill("#seed", "1e99")
    ask(page, "Un ?")
    [body] = fake.asked(CHAT)
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.2, 63, 2**31 - 1)
    assert body["messages"][0] == {"role": "system", "content": "Réponds en français."}
    page.click("#defaults")
    ask(page, "Deux ?")
    body = fake.asked(CHAT)[1]
    assert (body["temperature"], body["seed"]) == (0, 0)
    assert body["messages"][0]["role"] == "user"


def test_a_rating_is_written_once(page: Any, fake: Fake) -> None:
    page.fill("#system", "Sois bref.")
    ask(page, "Que fait le chat ?")
    page.fill("#system", "Autre chose.")
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_text("Kept for training.").nth(0).wait_for()
    page.get_by_role("button", name="Good answer").click(force=True)
    assert fake.asked("/api/feedback") == [
        {
            "model": "demo",
            "messages": fake.asked(CHAT)[0]["messages"],
            "answer": ANSWER,
            "rating": -1,
        }
    ]
    pressed = [page.get_by_role("button", name=f"{name} answer").get_attribute("aria-pressed")
               for name in ("Good", "Bad")]  # fmt: skip
    assert pressed == ["false", "true"]


def test_a_rating_that_was_not_kept_is_not_said_to_be_and_can_be_given_again(
    page: Any, fake: Fake
) -> None:
    ask(page, "Que fait le chat ?")
    fake.refuse = (500, "The disk is full.", None)
    good = page.get_by_role("button", name="Good answer")
    kept = page.locator(".actions").get_by_text("Kept for training.")
    good.click()
    assert soon(lambda: fake.asked("/api/feedback"), seconds=30)
    assert soon(lambda: good.get_attribute("aria-pressed") == "false", seconds=30)
    assert not kept.is_visible()
    fake.refuse = None
    good.click()
    kept.wait_for()
    assert [body["rating"] for body in fake.asked("/api/feedback")] == [1, 1]


def test_ratings_are_offered_only_where_they_are_kept(open_page: Any, fake: Fake) -> None:
    fake.feedback = False
    page = open_page()
    ask(page, "Un ?")
    assert page.get_by_role("button", name="Good answer").count() == 0


def test_what_a_model_says_stays_text(page: Any, fake: Fake) -> None:
    fake.by_model["demo"] = HOSTILE
    page.fill("#max_tokens", "63")
    page.click("#context-on")
    page.fill("#context", HOSTILE)
    ask(page, HOSTILE)
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=option]")
    shown = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\u202c", "⟨U+202C⟩").replace("\x1b", "␛")
    assert said(page) == shown
    assert page.locator(".question bdi").text_content() == shown
    assert "".join(page.locator("[role=option]").all_text_contents()) == shown
    assert page.locator("main :is(script, img, style, a)").count() == 0
    assert page.title() == "demo · Quatrain"


def test_a_very_long_line_is_shown_and_does_not_widen_the_page(open_page: Any, fake: Fake) -> None:
    fake.by_model["demo"] = "a" * 1_000_000
    page = open_page(width=360)
    ask(page, "Un ?")
    assert len(page.locator(".answer .said").text_content()) == 1_000_000
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((429, "queue full", None), "Too many questions wait. Ask again in 3 seconds."),
        ((503, "stopping", None), "The server is stopping, and takes no more questions."),
        ((400, "too long", "context_length_exceeded"), "Too long for this model."),
        ((400, "no <b>", None), "The server refused: no <b>"),
    ],
)
def test_a_refusal_is_told_and_can_be_tried_again(
    page: Any, fake: Fake, refusal: tuple[int, str, str | None], sentence: str
) -> None:
    fake.refuse = refusal
    ask(page, "Un ?")
    assert page.locator(".problem.bad").inner_text().startswith(sentence)
    fake.refuse = None
    page.get_by_role("button", name="Answer again").click()
    wait(page, f"document.querySelector('.answer .said').innerText === '{ANSWER}'")
    assert page.locator(".problem").is_hidden()


def test_a_question_without_an_answer_is_not_part_of_the_conversation(
    page: Any, fake: Fake
) -> None:
    fake.refuse = (500, "broken", None)
    ask(page, "Un ?")
    fake.refuse = None
    ask(page, "Deux ?")
    assert [m["content"] for m in fake.asked(CHAT)[1]["messages"]] == ["Deux ?"]


def test_an_answer_that_breaks_off_is_told(page: Any, fake: Fake) -> None:
    fake.break_off = True
    ask(page, "Un ?")
    assert page.locator(".problem.bad").inner_text() == "The answer broke off. Ask again."
    assert said(page) == "Le chat dort"


def test_a_server_that_is_gone_is_told(page: Any) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    ask(page, "Un ?")
    assert page.locator(".problem.bad").inner_text().startswith("The server does not answer.")


def test_an_answer_that_was_cut_says_so(page: Any) -> None:
    page.fill("#max_tokens", "2")
    ask(page, "Un ?")
    assert said(page) == "Le chat"
    assert page.locator(".problem").inner_text().startswith("Cut at the longest answer")


def test_a_key_is_asked_for_and_forgotten(open_page: Any, fake: Fake) -> None:
    fake.key = "s3cret-key"
    page = open_page()
    for typed in ("wrong", "s3cret-key"):
        page.wait_for_selector("dialog[open]")
        page.fill("#key", typed)
        page.keyboard.press("Enter")
    page.wait_for_selector("#lede span")
    ask(page, "Un ?")
    assert said(page) == ANSWER
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "Un ?" in kept
    assert "s3cret" not in kept + page.content()
    with page.expect_download() as saved:
        page.get_by_role("link", name="How it was trained").click()
    assert saved.value.suggested_filename == "demo.html"


def test_a_report_is_one_click_away(page: Any) -> None:
    with page.expect_popup() as opened:
        page.get_by_role("link", name="How it was trained").click()
    assert opened.value.url.endswith("/report/demo")
    page.select_option("#model", "pretrain")
    assert page.locator("#report").is_hidden()


def test_a_reload_loses_nothing_and_a_new_conversation_all(page: Any, fake: Fake) -> None:
    page.fill("#system", "Sois bref.")
    ask(page, "Un ?")
    page.reload()
    page.wait_for_selector(DONE)
    assert (said(page), page.input_value("#system")) == (ANSWER, "Sois bref.")
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector("[role=option]")
    page.get_by_role("button", name="New conversation").click()
    page.reload()
    page.wait_for_selector("#lede span")
    assert page.locator(".turn").count() == 0


def test_the_language_is_the_browsers_until_another_is_chosen(open_page: Any) -> None:
    page = open_page(language="fr-CA")
    page.get_by_role("heading", name="Posez une question").wait_for()
    ask(page, "Un ?")
    assert page.get_attribute("html", "lang") == "fr"
    page.get_by_role("button", name="Voir à l’intérieur").click()
    page.wait_for_selector("[role=option]")
    page.get_by_role("button", name="English").click()
    page.get_by_role("button", name="Look inside").wait_for()
    page.reload()
    page.get_by_role("button", name="Send").wait_for()
    assert page.get_attribute("html", "lang") == "en"


def test_no_french_sentence_is_left_on_an_english_page(open_page: Any) -> None:
    page = open_page(language="fr")
    ask(page, "?")
    page.get_by_role("button", name="Voir à l’intérieur").click()
    page.wait_for_selector("[role=option]")
    page.get_by_role("button", name="English").click()
    english, french = (_sentences(page, language) for language in ("en", "fr"))
    shown = page.evaluate("""[...document.querySelectorAll('[data-said]')].flatMap(one =>
        [one.textContent, one.getAttribute('aria-label')])""")
    assert not (set(shown) & (french - english))
    assert len(set(shown) & english) > 30


def _sentences(page: Any, language: str) -> set[str]:
    words = page.evaluate("fetch('static/words.json').then(answer => answer.json())")
    return set(words[language].values())


def test_everything_is_reached_by_keyboard(page: Any, fake: Fake) -> None:
    page.reload()
    page.wait_for_selector("#lede span")
    page.keyboard.type("Que fait le chat ?")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    assert page.evaluate("document.activeElement.id") == "question"
    page.focus(".skip")
    reached = list[str]()
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("""(() => { const one = document.activeElement;
            return one.id || one.textContent.trim() || one.tagName })()""")
        if name in reached:
            break
        reached.append(name)
    expected = ["English", "Français", "report", "model", "other", "Settings", "system",
                "temperature", "top_p", "max_tokens", "seed", "defaults", "Edit", "Answer again",
                "Look inside", "Good answer", "Bad answer", "new", "question", "context-on",
                "earlier", "send"]  # fmt: skip
    assert [name for name in reached if name in expected] == expected


def test_events_are_read_wherever_they_are_cut(page: Any) -> None:
    stream = 'data: {"é": 1}\r\n\r\n: comment\n\ndata: a\ndata: b\n\ndata:c\r\rdata: cut'
    read = """async (bytes) => {
      const { events } = await import('/static/events.js');
      const all = [];
      for (let cut = 0; cut <= bytes.length; cut++) {
        const parts = [bytes.slice(0, cut), bytes.slice(cut)].map(part => new Uint8Array(part));
        const found = [];
        for await (const data of events(new ReadableStream({start(it) {
          parts.forEach(part => it.enqueue(part)); it.close(); }}))) found.push(data);
        all.push(JSON.stringify(found));
      }
      return [...new Set(all)];
    }"""
    [found] = page.evaluate(read, list(stream.encode()))
    assert json.loads(found) == ['{"é": 1}', "a\nb", "c"]
