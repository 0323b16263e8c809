#!/usr/bin/env python3
"""Writes assistant.jsonl, the instruction data of the quickstart: made-up records in Dolly's format.

Every record is composed here from small word lists, with a fixed seed, so the file can be made again byte for byte
(python3 scripts/sample_data/make_sample.py). No (instruction, context) pair comes twice: a held-out record is always a
new combination of words the model has met elsewhere, so answering it right means having learned the pattern.
Needs only Python's standard library. The result is free to use (CC0).
"""

import json
import pathlib
import random

SEED = 20240501

FIRST_NAMES = """Ada Alma Anders Anton Bela Bruno Carla Celia Clara Dario Edda Elio Elsa Emil Enzo Erik Fenna Finn Flora
Frida Gita Hanna Hugo Ida Ines Ivan Iris Jana Jonas Juna Kaja Karl Lars Lea Leon Lina Luca Luis Maja Marco Mara Milo Mina
Nadia Nils Nora Olga Oskar Otto Paula Pavel Petra Ravi Rosa Ruben Sami Sara Selma Silas Sofia Stella Tariq Tessa Theo
Tilda Tomas Uma Vera Viktor Wanda Yara Yusuf Zara Zeno""".split()

PROFESSIONS = {
    "baker": "bread", "carpenter": "chairs", "gardener": "roses", "potter": "bowls", "tailor": "coats",
    "painter": "portraits", "beekeeper": "honey", "farmer": "wheat", "fisher": "nets", "blacksmith": "hooks",
    "weaver": "blankets", "cook": "soup", "jeweller": "rings", "shoemaker": "boots", "printer": "posters",
    "glassblower": "vases", "bookbinder": "notebooks", "cheesemaker": "cheese", "clockmaker": "clocks",
    "saddler": "saddles",
}
CITIES = """Lisbon Oslo Vienna Dublin Prague Athens Helsinki Madrid Warsaw Rome Bern Tallinn Riga Porto Bergen Ghent Lyon
Turin Graz Malmo""".split()
PETS = "cat dog parrot rabbit turtle goat pony hamster goose hen".split()
COLOURS = "red blue green yellow purple orange white black brown grey".split()
HOBBIES = "chess swimming singing sailing dancing cycling painting reading hiking skating".split()
FOODS = "soup rice pasta bread cheese fish porridge cake salad curry".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
HOURS = "seven eight nine ten eleven twelve".split()

CLASSES = {
    "bird": "sparrow heron owl eagle robin swan crow stork falcon pigeon wren duck".split(),
    "fish": "salmon trout herring cod tuna carp pike perch eel mackerel".split(),
    "mammal": "wolf bear horse whale otter fox mouse deer badger seal".split(),
    "insect": "bee ant wasp moth beetle cricket ladybird dragonfly mosquito butterfly".split(),
    "fruit": "apple pear plum cherry banana mango peach lemon grape fig".split(),
    "vegetable": "carrot onion cabbage leek potato spinach turnip radish pumpkin celery".split(),
    "tool": "hammer saw chisel pliers spanner drill shovel rake axe screwdriver".split(),
    "instrument": "violin flute piano trumpet drum harp guitar cello oboe clarinet".split(),
    "tree": "oak birch pine maple willow cedar elm beech ash poplar".split(),
    "vehicle": "bicycle tram bus lorry ferry tractor train canoe scooter van".split(),
}
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Portugal": "Lisbon", "Italy": "Rome", "Germany": "Berlin",
    "Austria": "Vienna", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Poland": "Warsaw", "Greece": "Athens", "Ireland": "Dublin", "Hungary": "Budapest", "Japan": "Tokyo",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa",
    "India": "New Delhi", "Thailand": "Bangkok", "Nepal": "Kathmandu", "Iceland": "Reykjavik", "Estonia": "Tallinn",
}
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "goat": "kid", "hen": "chick",
    "duck": "duckling", "goose": "gosling", "pig": "piglet", "lion": "cub", "deer": "fawn", "swan": "cygnet",
    "frog": "tadpole",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "high": "low", "light": "dark", "old": "young", "wet": "dry",
    "full": "empty", "hard": "soft", "early": "late", "strong": "weak", "rich": "poor", "loud": "quiet",
    "near": "far", "open": "closed", "sharp": "blunt", "thick": "thin", "clean": "dirty",
}
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty""".split()


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Writer:
    """Collects records; refuses one whose instruction and context are there already."""

    def __init__(self, rng):
        self.rng = rng
        self.seen = set()
        self.records = []

    def add(self, category, instruction, context, response):
        if (instruction, context) in self.seen:
            return False
        self.seen.add((instruction, context))
        self.records.append(
            {"instruction": instruction, "context": context, "response": response, "category": category})
        return True

    def fill(self, count, make):
        """Calls make(rng) for records until `count` new ones are in, or nothing new has come for long."""
        added = misses = 0
        while added < count and misses < 2000:
            if self.add(*make(self.rng)):
                added, misses = added + 1, 0
            else:
                misses += 1


def person(rng):
    """Facts about somebody, and sentences that state them."""
    facts = {
        "name": rng.choice(FIRST_NAMES), "profession": rng.choice(list(PROFESSIONS)), "city": rng.choice(CITIES),
        "pet": rng.choice(PETS), "colour": rng.choice(COLOURS), "hobby": rng.choice(HOBBIES),
        "food": rng.choice(FOODS),
    }
    name = facts["name"]
    sentences = {
        "profession": rng.choice([f"{name} works as {article(facts['profession'])}.",
                                  f"By trade {name} is {article(facts['profession'])}."]),
        "city": rng.choice([f"{name} lives in {facts['city']}.", f"The home of {name} is in {facts['city']}."]),
        "pet": f"{name} has {article(facts['pet'])} at home.",
        "colour": f"The front door is painted {facts['colour']}.",
        "hobby": rng.choice([f"On free evenings {name} enjoys {facts['hobby']}.",
                             f"The favourite pastime is {facts['hobby']}."]),
        "food": f"For lunch there is usually {facts['food']}.",
    }
    return facts, sentences


PERSON_QUESTIONS = {
    "profession": (["What is the profession of {name}?", "What does {name} do for a living?"],
                   "{name} is {article_profession}."),
    "city": (["Where does {name} live?", "In which city is the home of {name}?"], "{name} lives in {city}."),
    "pet": (["Which animal does {name} have?", "What pet lives with {name}?"], "{name} has {article_pet}."),
    "colour": (["What colour is the front door?", "Which colour does the front door have?"],
               "The front door is {colour}."),
    "hobby": (["What does {name} enjoy doing?", "What is the hobby of {name}?"], "{name} enjoys {hobby}."),
    "food": (["What does {name} eat for lunch?", "What is there for lunch?"], "For lunch there is {food}."),
}


def closed_qa(rng):
    facts, sentences = person(rng)
    topics = rng.sample(list(sentences), 3)
    asked = rng.choice(topics)
    questions, answer = PERSON_QUESTIONS[asked]
    words = dict(facts, article_profession=article(facts["profession"]), article_pet=article(facts["pet"]))
    return ("closed_qa", rng.choice(questions).format(**words), " ".join(sentences[t] for t in topics),
            answer.format(**words))


def information_extraction(rng):
    kind = rng.choice(["person", "time"])
    if kind == "person":
        facts, sentences = person(rng)
        topics = rng.sample(["profession", "city", "pet", "hobby"], 3)
        asked = rng.choice([t for t in topics if t in ("city", "profession", "pet")])
        label = {"city": "city", "profession": "profession", "pet": "animal"}[asked]
        return ("information_extraction", f"Extract the {label} from the text.",
                " ".join(sentences[t] for t in topics), f"The {label} is {facts[asked]}.")
    name, city, day, hour = (rng.choice(w) for w in (FIRST_NAMES, CITIES, DAYS, HOURS))
    context = rng.choice([f"{name} takes the train to {city} on {day} at {hour} o'clock.",
                          f"The meeting with {name} in {city} is on {day} at {hour}."])
    label, answer = rng.choice([("day", day), ("city", city), ("time", hour), ("name", name)])
    return "information_extraction", f"Which {label} does the text mention?", context, f"The {label} is {answer}."


def classification(rng):
    right, wrong = rng.sample(list(CLASSES), 2)
    thing = rng.choice(CLASSES[right])
    first, second = rng.sample([right, wrong], 2)
    question = rng.choice([
        f"Is {article(thing)} {article(first)} or {article(second)}?",
        f"Classify the word '{thing}' as {first} or {second}.",
        f"Does '{thing}' belong to the group {first} or to the group {second}?",
    ])
    return "classification", question, "", f"{article(thing).capitalize()} is {article(right)}."


def open_qa(rng):
    kind = rng.choice(["capital", "capital", "country", "young"])
    if kind == "young":
        parent, young = rng.choice(list(YOUNG.items()))
        question = rng.choice(["What is a young {0} called?", "What do we call the young of a {0}?",
                               "Give the word for a baby {0}.", "How is a baby {0} called?"]).format(parent)
        return "open_qa", question, "", f"A young {parent} is called a {young}."
    country, capital = rng.choice(list(CAPITALS.items()))
    if kind == "capital":
        question = rng.choice(["What is the capital of {0}?", "Which city is the capital of {0}?",
                               "Name the capital of {0}.", "Tell me the capital city of {0}.",
                               "From which city is {0} governed?"]).format(country)
    else:
        question = rng.choice(["{0} is the capital of which country?", "Of which country is {0} the capital?",
                               "Which country has {0} as its capital?"]).format(capital)
    return "open_qa", question, "", f"The capital of {country} is {capital}."


def general_qa(rng):
    kind = rng.choice(["opposite", "sum", "after"])
    if kind == "opposite":
        word, other = rng.choice(list(OPPOSITES.items()))
        word, other = rng.sample([word, other], 2)
        question = rng.choice(["What is the opposite of {0}?", "Which word means the opposite of {0}?",
                               "Give the opposite of the word {0}.", "Name the contrary of {0}."]).format(word)
        return "general_qa", question, "", f"The opposite of {word} is {other}."
    if kind == "sum":
        a, b = rng.randrange(0, 11), rng.randrange(0, 11)
        question = rng.choice(["What is {0} plus {1}?", "How much is {0} and {1}?",
                               "Add {0} and {1}."]).format(NUMBERS[a], NUMBERS[b])
        return "general_qa", question, "", f"{NUMBERS[a].capitalize()} plus {NUMBERS[b]} is {NUMBERS[a + b]}."
    day = rng.randrange(7)
    name = rng.choice(FIRST_NAMES)
    question = f"{name} arrives on the day after {DAYS[day]}. Which day is that?"
    return "general_qa", question, "", f"The day after {DAYS[day]} is {DAYS[(day + 1) % 7]}."


def summarization(rng):
    facts, sentences = person(rng)
    topics = rng.sample(["profession", "city", "pet", "colour", "food"], 4)
    if "profession" not in topics:
        topics[0] = "profession"
    if "city" not in topics:
        topics[1] = "city"
    name = facts["name"]
    question = rng.choice(["Summarize the text in one sentence.", f"Say in one sentence who {name} is."])
    return ("summarization", question, " ".join(sentences[t] for t in topics),
            f"{name} is {article(facts['profession'])} from {facts['city']}.")


def brainstorming(rng):
    """Lists are alphabetical and start at a given word, so that there is one right answer."""
    kind = rng.choice(list(CLASSES))
    words = sorted(CLASSES[kind])
    start = rng.randrange(len(words) - 2)
    name = rng.choice(FIRST_NAMES)
    question = rng.choice([f"Name three {kind} words for {name} in alphabetical order, starting with {words[start]}.",
                           f"{name} needs three {kind} words in alphabetical order. Begin with {words[start]}."])
    return "brainstorming", question, "", ", ".join(words[start:start + 3]) + "."


def creative_writing(rng):
    name, profession, city = rng.choice(FIRST_NAMES), rng.choice(list(PROFESSIONS)), rng.choice(CITIES)
    goods = PROFESSIONS[profession]
    if rng.random() < 0.5:
        return ("creative_writing", f"Write a short greeting to {name}, who is {article(profession)}.", "",
                f"Dear {name}, may your {goods} be the best in town!")
    return ("creative_writing", f"Write a slogan for {article(profession)} in {city}.", "",
            f"The finest {goods} in {city}!")


def main():
    writer = Writer(random.Random(SEED))
    for count, make in [(900, closed_qa), (500, information_extraction), (800, classification), (400, open_qa),
                        (500, general_qa), (400, summarization), (250, brainstorming), (250, creative_writing)]:
        writer.fill(count, make)
    writer.rng.shuffle(writer.records)
    path = pathlib.Path(__file__).with_name("assistant.jsonl")
    with path.open("w", encoding="utf-8") as out:
        for record in writer.records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{path.name}: {len(writer.records)} records")


if __name__ == "__main__":
    main()
