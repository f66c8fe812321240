"""The text tokenizer of the built-in models: a real sentencepiece model, trained in a moment.

It is laid out like Kyutai's `tokenizer_spm_32k_3.model`: <unk> 0, <s> 1, </s> 2, <pad> 3, then 256 byte
tokens, so that any text can be encoded. The same size gives the same bytes. Their weights are made
elsewhere.
"""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import CheckpointError
from ..files import replacing

# Plain talk, with the accents that French and German bring, so that pieces longer than a letter are learned.
_SENTENCES = """
Hello, how are you doing today?
I am fine, thank you, and how about you?
Good morning! Did you sleep well last night?
It is a beautiful day, and the sun is shining over the river.
What would you like to talk about this evening?
We could talk about music, about books, or about the weather.
I was thinking about the letter that you wrote to me last winter.
She is playing the piano in the room above the kitchen.
He said that he would be back before the rain started.
They are walking along the shore, listening to the waves.
There is nothing better than fresh bread in the morning.
Could you tell me where the station is, please?
The train leaves at half past seven, so we should hurry.
Yes, of course, I would be happy to help you with that.
No, I do not think that is what she was looking for.
Maybe we should wait here until the others have arrived.
When I was a child, we lived in a small house near the forest.
The garden was full of apple trees, and the cat was sleeping under them.
Everything was quiet, except for the wind in the leaves.
I have never been there, but I would love to go one day.
Do you remember the story about the fisherman and the lighthouse?
The old man was counting the boats: one, two, three, four, five.
Six, seven, eight, nine, ten, and then he lost count again.
Numbers like 0, 1, 2, 3, 4, 5, 6, 7, 8 and 9 belong here as well.
Let me think about it for a moment, and then I will answer.
That is a very interesting question; I am not sure about the answer.
The more you listen, the more you understand what people are saying.
Speaking and listening at the same time is harder than it sounds.
Sorry, I did not hear that. Would you say it again, please?
My brother works in a workshop where they are building wooden toys.
Her sister is studying the stars, and knows most of them by name.
Water, fire, earth and air: that was the whole of their science.
Just keep going straight ahead, then turn left at the bakery.
We were cooking dinner together when the lights went out.
Nobody knows exactly why the clock stopped, but it did.
You can always call me when something is wrong with the machine.
Quick foxes jump over lazy dogs, or so the typists say.
The answer is "maybe", and that's the best I can offer (for now).
Bonjour, comment ça va aujourd'hui ?
Ça va très bien, merci, et vous ?
Il était une fois une forêt où personne n'osait entrer.
Nous avons mangé une crêpe au café près du château.
Où est-ce que tu as posé la clé de la fenêtre ?
L'été dernier, les élèves ont été à la plage avec leur frère.
Je ne sais pas, peut-être qu'elle préfère le thé à la française.
Le garçon naïf a reçu un drôle de cadeau pour Noël.
Guten Morgen, wie geht es Ihnen heute?
Danke, es geht mir gut, und wie geht es dir?
Die Straße ist schön, aber die Tür ist leider geschlossen.
Wir möchten später über die Brücke zum Bäcker gehen.
Können Sie mir sagen, wo der nächste Zug nach Köln fährt?
Das Mädchen hörte die Vögel, und der Käse schmeckte süß.
Ein Gespräch braucht zwei: einer spricht, und einer hört zu.
Goodbye, see you soon, and thank you for the conversation!
""".strip().splitlines()


def write_tiny_tokenizer(path: str | Path, vocabulary_size: int = 512) -> Path:
    """Write a sentencepiece model of exactly `vocabulary_size` tokens to `path`, and return the path.

    The file appears whole or not at all. Raises CheckpointError when the size is out of what the built-in
    sentences allow (about 350 to 600) or the file cannot be written.
    """
    path = Path(path)
    model = _train(vocabulary_size)
    try:
        with replacing(path) as partial:
            partial.write_bytes(model)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot write the text tokenizer: {error.strerror}") from None
    return path


def _train(vocabulary_size: int) -> bytes:
    """Train a unigram model; one thread and the identity normaliser, so that it is repeatable and small."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(_SENTENCES),
            model_writer=model,
            vocab_size=vocabulary_size,
            unk_id=0, bos_id=1, eos_id=2, pad_id=3,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=3,
        )  # fmt: skip
    except RuntimeError:
        raise CheckpointError(
            f"the built-in text tokenizer cannot have {vocabulary_size} tokens: about 350 to 600 are possible"
        ) from None
    return model.getvalue()
