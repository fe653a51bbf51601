"""Words that say nothing about what a text is about: function words and question words.

Question words matter most. Hardly any document says "why" or "mấy", so by its rarity such a word
would be the best one of a question.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_LISTS = {
    "en": (
        "a an the of to in on at for by with from as is are was were be been do does did can could "
        "may might must shall should will would have has had how what when where which who whom "
        "whose why i me my we us our you your he she it its they them their this that these those "
        "and or not no if there here any many much long often per each than then about into after "
        "before tell please"
    ),
    "vi": (
        "là của và có cho các những một được không khi thì mà với này kia đó ở tại bao nhiêu gì "
        "nào ai sao thế như để từ đến trong ngoài trên dưới bị phải tôi mình chúng ta bạn anh chị "
        "em hãy xin về ra vào sẽ đã đang rồi cần hay hoặc nếu lâu mấy hỏi biết"
    ),
    "de": (
        "der die das den dem des ein eine einen einem einer eines und oder aber nicht kein keine "
        "ich mich mir mein meine meinen wir uns du sie ihr er es man sich ist sind war waren sein "
        "wird werden wurde hat haben kann können könnte muss müssen soll sollte darf dürfen in im "
        "an am auf aus bei mit nach von vom vor zu zum zur für über unter durch ohne um als wie "
        "was wann wo warum wieso weshalb wer wem wen welche welcher welches welchen welchem womit "
        "wofür woher wohin dass ob wenn auch noch nur so dann hier da es gibt mein viel viele bitte"
    ),
    "fr": (
        "le la les l un une des de du d et ou mais ne pas n je j me m mon ma mes nous notre vous "
        "votre il elle on se s sa ses son leur est sont était être a ont avoir peut peuvent puis "
        "peux dois doit faut en dans à au aux par pour sur sous avec sans ce cet cette ces qui que "
        "qu quoi quel quelle quels quelles quand où comment pourquoi combien si comme plus y c "
        "cela ça fait faire"
    ),
    "es": (
        "el la los las un una unos unas de del y o pero no yo me mi mis nos nuestro su sus se lo "
        "le les es son era ser está están hay ha han haber puede pueden puedo debo debe en a al "
        "por para con sin sobre entre como cómo qué que quién quiénes cuál cuáles cuándo cuando "
        "dónde donde cuánto cuánta cuántos cuántas si este esta estos estas ese esa eso más muy ya"
    ),
    "pt": (
        "o a os as um uma uns umas de do da dos das e ou mas não eu me meu minha nós nosso seu sua "
        "se lhe é são era ser está estão há foi pode podem posso devo deve em no na nos nas ao à "
        "por pelo pela para com sem sobre como que quê quem qual quais quando onde quanto quanta "
        "quantos quantas porque este esta isso isto mais muito já"
    ),
    "it": (
        "il lo la i gli le un uno una di del della dei delle dello e o ma non io mi mio mia noi ci "
        "si suo sua è sono era essere sta c ha hanno avere può possono posso devo deve in nel "
        "nella a al alla da dal dalla per con senza su sul sulla come che chi cosa quale quali "
        "quando dove quanto quanta quanti quante perché se questo questa più"
    ),
    "nl": (
        "de het een en of maar niet geen ik mij mijn wij we ons je jij u uw hij zij ze zich is "
        "zijn was waren wordt worden heeft hebben kan kunnen moet moeten mag in op aan bij met "
        "naar van voor uit over onder door zonder om te als hoe wat wanneer waar waarom wie welke "
        "welk hoeveel dat die dit deze er ook nog"
    ),
    "sv": (
        "en ett den det de och eller men inte jag mig min mitt vi oss du ni han hon man sig är var "
        "vara blir har ha hade kan måste ska skall bör i på av för från till med om vid under "
        "utan hur vad när var varför vem vilken vilket vilka som att detta denna finns"
    ),
    "pl": (
        "i a w we z ze na do od o po u za przez dla bez pod nad przy nie tak się jest są był była "
        "być mam ma mają może mogą można muszę musi należy ja mnie mi mój moje my nas on ona ono "
        "to ten ta te tego tej jak co kto kiedy gdzie dlaczego czemu czy który która które jaki "
        "jaka jakie ile że jeśli lub oraz ale"
    ),
    "cs": (
        "a i v ve z ze na do od o po u za pro bez pod nad při se si je jsou byl být mám má mají "
        "může mohou mohu musím musí já mě mi můj my nás on ona to ten ta jak co kdo kdy kde proč "
        "zda který která které jaký jaká jaké kolik že pokud nebo ale ne"
    ),
    "id": (
        "yang di ke dari dan atau tetapi tidak bukan saya kami kita anda dia mereka ini itu adalah "
        "ada akan telah sudah dapat bisa harus untuk dengan pada dalam oleh sebagai apa siapa "
        "kapan mana bagaimana mengapa kenapa berapa jika apakah"
    ),
    "tr": (
        "ve veya ile ama değil bir bu şu o ben benim biz siz mi mı mu mü için gibi kadar daha da "
        "de ne kim nasıl neden niçin niye nerede nereye hangi kaç var yok olan olarak ise"
    ),
    "ru": (
        "и в во на с со к ко от о об из за у по для без под над при не нет ни а но или что чтобы "
        "как так это этот эта эти того то же ли бы я мне меня мой мы нас нам вы вас вам он она "
        "они его её их есть быть был была были может могут можно мочь нужно надо должен кто когда "
        "где куда почему зачем какой какая какое какие какого сколько который которая если чем"
    ),
    "uk": (
        "і й та в у на з із зі до від о про за по для без під над при не ні а але або що щоб як "
        "так це цей ця ці того то ж чи би я мені мене мій ми нас нам ви вас вам він вона вони "
        "його її їх є бути був була були може можуть можна треба потрібно хто коли де куди чому "
        "навіщо який яка яке які скільки якщо"
    ),
    "el": (
        "ο η το οι τα του της των τον την ένα ένας μια και ή αλλά δεν να θα με σε στο στη στην "
        "στον στα από για προς είναι ήταν έχει έχω μπορώ μπορεί πρέπει εγώ μου μας σας πώς τι "
        "ποιος ποια ποιο ποιοι πότε πού γιατί πόσο πόσα αν που αυτό"
    ),
    "ko": (
        "무엇 무엇인가요 무엇입니까 뭐 왜 어떻게 어떤 어느 언제 어디 어디서 어디에 누가 누구 "
        "얼마나 몇 이 그 저 수 것 있나요 있습니까 있는 있는지 하나요 합니까 되나요 됩니까 할 "
        "하는 나는 제가 내 및 또는"
    ),
    # Pairs of characters, as these are indexed.
    "ja": (
        "です ます すか ます した して する いる ある なに 何で どの どう どこ なぜ いつ だれ 誰が "
        "のよ よう うに うす すれ れば ばよ よい いで いま には とは では から まで こと ので ため "
        "は何 のは"
    ),
    "zh": (
        "什么 甚么 怎么 怎样 如何 何时 哪里 哪个 哪些 为什 为何 多少 是否 可以 我可 我的 的是 是什 "
        "么是 我怎 什麼 怎麼 怎樣 為什 為何 哪裡 哪個"
    ),
}
STOP_WORDS = {language: frozenset(listed.casefold().split()) for language, listed in _LISTS.items()}
"""{language: its words, lower case}; of Japanese and Chinese, pairs of characters."""

ENGLISH_OR_VIETNAMESE = STOP_WORDS["en"] | STOP_WORDS["vi"]
_OTHERS = [words for language, words in STOP_WORDS.items() if language not in ("en", "vi")]


def stop_words_of(text_words: Sequence[str]) -> Collection[str]:
    """The stop words of the language that most of a text's stop words belong to.

    English and Vietnamese go together, and first: questions here mix them.
    """
    best, most = ENGLISH_OR_VIETNAMESE, sum(word in ENGLISH_OR_VIETNAMESE for word in text_words)
    for listed in _OTHERS:
        found = [word for word in text_words if word in listed]
        # One word alone ("die hard") says little, unless no English word is written so.
        if len(found) > most and (len(found) > 1 or not found[0].isascii()):
            best, most = listed, len(found)
    return best
